//! Divides a text into the passages that are compared with a search: the whole text, and the
//! statements in it.
//!
//! The vector of a text about several things is similar to each of them only a little. So a text of
//! several statements has a vector for each of them too. The borders are those of English sentences.
//! A text in another language is divided at its punctuation, or not at all.

/// Maximum number of passages of a text.
pub const MOST: usize = 8;

/// Texts between two statements, each with the number of its last bytes that belong to the second.
const BORDERS: [(&str, usize); 12] = [
    (". ", 0),
    ("! ", 0),
    ("? ", 0),
    ("\n", 0),
    ("; ", 0),
    (", then ", 0),
    (" and then ", 0),
    (", while ", 0),
    (", and ", 0),
    (" and a ", "a ".len()),
    (" and an ", "an ".len()),
    (" and the ", "the ".len()),
];

/// Words before a statement that say nothing about its subject.
const LEADING: [&str; 7] =
    ["first ", "then ", "after that ", "while ", "and ", "there is ", "there are "];

/// Returns the whole text, and its statements if there are several. Of a long text, these are the
/// first ones.
pub fn passages(text: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let mut rest = text;
    while let Some((statement, following)) = first_border(rest) {
        statements.push(statement);
        rest = following;
    }
    statements.push(rest);
    let statements = statements.into_iter().map(subject_first);
    let statements: Vec<&str> = statements.filter(|text| !text.is_empty()).collect();
    let mut passages = vec![text];
    if statements.len() > 1 {
        passages.extend(statements);
    }
    passages.truncate(MOST);
    passages
}

/// Returns the texts on both sides of the first border.
fn first_border(text: &str) -> Option<(&str, &str)> {
    text.char_indices().find_map(|(at, _)| {
        let rest = &text[at..];
        let (border, kept) = BORDERS.iter().find(|(border, _)| rest.starts_with(border))?;
        Some((&text[..at], &rest[border.len() - kept..]))
    })
}

/// Removes leading words and the punctuation at the end.
fn subject_first(mut text: &str) -> &str {
    text = text.trim();
    let without = |text: &'_ str, leading: &str| -> Option<usize> {
        let start = text.get(..leading.len())?;
        start.eq_ignore_ascii_case(leading).then_some(leading.len())
    };
    while let Some(length) = LEADING.iter().find_map(|leading| without(text, leading)) {
        text = text[length..].trim_start();
    }
    text.trim_end_matches([' ', '.', ',', ';', '!', '?'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_is_divided_into_its_statements() {
        let cases: [(&str, &[&str]); 9] = [
            ("A red car is parked.", &[]),
            ("There is a dog running from right to left.", &[]),
            ("Yes, in 3 of 16 parts.", &[]),
            (
                "First a dog runs, then a white car drives from left to right.",
                &["a dog runs", "a white car drives from left to right"],
            ),
            (
                "A person in a blue jacket leaves; after that there is a dog.",
                &["A person in a blue jacket leaves", "a dog"],
            ),
            ("There is a car, and an old dog and the cat.", &["a car", "an old dog", "the cat"]),
            ("A person walks. She stops!", &["A person walks", "She stops"]),
            ("Ein Auto fährt. Ein Hund läuft.", &["Ein Auto fährt", "Ein Hund läuft"]),
            ("", &[]),
        ];
        for (text, statements) in cases {
            let found = passages(text);
            assert_eq!((found[0], &found[1..]), (text, statements));
        }
    }

    proptest! {
        #[test]
        fn passages_are_few_and_each_is_a_part_of_the_text(text in "(\\PC|[ .,;]|and a |then ){0,60}") {
            let found = passages(&text);
            prop_assert!((1..=MOST).contains(&found.len()));
            prop_assert!(found.iter().all(|passage| text.contains(passage)));
        }
    }
}
