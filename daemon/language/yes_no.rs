//! Scores the answer of a yes/no question from the logits of its first token, without generating it.
//!
//! The score is P(yes) / (P(yes) + P(no)). Each probability is summed over the spellings of the word
//! that are one token: with and without a space before it, in lower case, capitalised or in capitals.
//! If no spelling is one token, the first tokens of the spellings count instead. A token that begins
//! both words does not count.

use super::tokenizer::Tokenizer;

/// The tokens that begin the answers “yes” and “no”.
#[derive(Debug)]
pub struct YesNo {
    yes: Vec<u32>,
    no: Vec<u32>,
}

impl YesNo {
    /// Finds the tokens. Returns the reason as text if the words cannot be told apart by their first
    /// token.
    pub fn of(tokenizer: &Tokenizer) -> Result<YesNo, String> {
        let (yes, no) = (first_tokens(tokenizer, "yes"), first_tokens(tokenizer, "no"));
        let only = |these: &[u32], others: &[u32]| -> Vec<u32> {
            these.iter().copied().filter(|id| !others.contains(id)).collect()
        };
        let words = YesNo { yes: only(&yes, &no), no: only(&no, &yes) };
        if words.yes.is_empty() || words.no.is_empty() {
            return Err(format!(
                "the model cannot score yes/no questions: its tokenizer gives \"yes\" the first \
                 tokens {yes:?} and \"no\" the first tokens {no:?}, and the two words need different \
                 ones"
            ));
        }
        Ok(words)
    }

    /// Returns the score for these logits, one for each token of the vocabulary. Returns `None` if
    /// a logit is NaN or infinitely large, or if both words are ruled out.
    pub fn score(&self, logits: &[f32]) -> Option<f64> {
        if logits.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY) {
            return None;
        }
        self.score_by(|id| logits.get(id as usize).map(|logit| f64::from(*logit)))
    }

    /// Returns the score for the logits, or logarithms of probabilities, that `logit` knows of the
    /// tokens of both words. Returns `None` if both words are ruled out, or one is NaN.
    pub fn score_by(&self, logit: impl Fn(u32) -> Option<f64>) -> Option<f64> {
        let log_sum = |ids: &[u32]| log_sum(ids.iter().filter_map(|id| logit(*id)));
        let score = 1.0 / (1.0 + (log_sum(&self.no) - log_sum(&self.yes)).exp());
        (!score.is_nan()).then_some(score)
    }

    /// Returns the tokens of both words.
    pub fn tokens(&self) -> impl Iterator<Item = u32> {
        self.yes.iter().chain(&self.no).copied()
    }
}

/// Returns the tokens that are a spelling of the word, or else the first tokens of its spellings.
fn first_tokens(tokenizer: &Tokenizer, word: &str) -> Vec<u32> {
    let mut tokens = tokenizer.spellings(word);
    if tokens.is_empty() {
        let capitals = word.to_uppercase();
        let capitalised = capitals[..1].to_owned() + &word[1..];
        let words = [word, &capitalised, &capitals];
        let spellings = words.into_iter().flat_map(|word| [word.to_owned(), format!(" {word}")]);
        tokens = spellings.filter_map(|spelling| tokenizer.first_token(&spelling)).collect();
    }
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// Returns the logarithm of the sum of the exponentials of some logits.
fn log_sum(logits: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + logits.map(|logit| (logit - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tokenizer(folder: &str) -> Tokenizer {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        Tokenizer::load(&repository.join(folder)).expect("a tokenizer of the repository")
    }

    #[test]
    fn the_spellings_of_the_demo_model_are_found() {
        let demo = tokenizer("models/demo/package");
        let words = YesNo::of(&demo).expect("two words");
        let text = |ids: &[u32]| ids.iter().map(|id| demo.decode(&[*id]).expect("text")).collect();
        let (yes, no): (Vec<String>, Vec<String>) = (text(&words.yes), text(&words.no));
        assert_eq!(yes.iter().map(|text| text.trim()).collect::<Vec<_>>(), ["Yes"]);
        let mut no: Vec<&str> = no.iter().map(|text| text.trim()).collect();
        no.sort_unstable();
        assert_eq!(no, ["No", "no"]);
    }

    /// Loads a tokenizer whose tokens are these, with their positions as ids. It splits a text by a
    /// regular expression.
    fn tokenizer_of(tokens: &[&str], split: &str) -> Tokenizer {
        let folder = tempfile::tempdir().expect("a folder");
        let vocabulary: serde_json::Map<_, _> =
            tokens.iter().zip(0..).map(|(token, id)| ((*token).into(), id.into())).collect();
        let words = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "post_processor": null, "decoder": null,
            "pre_tokenizer": { "type": "Split", "pattern": { "Regex": split },
                "behavior": "Isolated", "invert": false },
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "?" },
        });
        let file = folder.path().join("tokenizer.json");
        std::fs::write(file, words.to_string()).expect("written");
        Tokenizer::load(folder.path()).expect("a tokenizer")
    }

    #[test]
    fn words_with_the_same_first_token_are_refused() {
        let words = tokenizer_of(&["?", "yard"], r"\w+");
        let refused = YesNo::of(&words).expect_err("the same token");
        assert!(refused.contains("\"yes\" the first tokens [0]"), "{refused}");
    }

    /// The space begins both words, so that it does not count.
    #[test]
    fn words_of_several_tokens_are_told_apart_by_the_first() {
        let letters = tokenizer_of(&["?", " ", "y", "Y", "n", "N", "e", "s", "o"], ".");
        let words = YesNo::of(&letters).expect("two words");
        assert_eq!((words.yes, words.no), (vec![2, 3], vec![4, 5]));
    }

    #[test]
    fn the_score_is_the_share_of_yes_in_the_softmax() {
        let words = YesNo { yes: vec![1, 3], no: vec![4] };
        let logits = [9.0f32, 1.0, -2.0, 0.5, 1.5];
        let p = |id: usize| f64::from(logits[id]).exp();
        let wanted = (p(1) + p(3)) / (p(1) + p(3) + p(4));
        let score = words.score(&logits).expect("finite");
        assert!((score - wanted).abs() < 1e-12, "{score} {wanted}");
        // Large logits overflow no exponential.
        assert_eq!(words.score(&[0.0, 3e38, 0.0, 0.0, -3e38]), Some(1.0));
        let ruled_out = f32::NEG_INFINITY;
        assert_eq!(words.score(&[0.0, ruled_out, 0.0, ruled_out, 1.0]), Some(0.0));
        assert_eq!(words.score(&[0.0, ruled_out, 0.0, ruled_out, ruled_out]), None);
        for wrong in [f32::NAN, f32::INFINITY] {
            assert_eq!(words.score(&[wrong, 1.0, -2.0, 0.5, 1.5]), None);
        }
    }
}
