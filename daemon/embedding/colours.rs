//! Names of colours that small models barely know: the usual colour is put next to them.

/// A usual colour, and names for kinds of it, each a single word.
const NAMES: [(&str, &[&str]); 11] = [
    (
        "red",
        &[
            "burgundy",
            "cardinal",
            "carmine",
            "cerise",
            "cherry",
            "claret",
            "crimson",
            "maroon",
            "ruby",
            "scarlet",
            "vermilion",
        ],
    ),
    ("orange", &["tangerine"]),
    (
        "yellow",
        &["amber", "canary", "gold", "golden", "lemon", "maize", "ocher", "ochre", "saffron"],
    ),
    ("green", &["chartreuse", "emerald", "jade", "lime", "olive", "teal"]),
    (
        "blue",
        &[
            "aqua",
            "aquamarine",
            "azure",
            "cerulean",
            "cobalt",
            "cyan",
            "navy",
            "sapphire",
            "turquoise",
            "ultramarine",
        ],
    ),
    ("purple", &["indigo", "lavender", "lilac", "mauve", "orchid", "plum", "violet"]),
    ("pink", &["coral", "fuchsia", "magenta", "salmon"]),
    ("brown", &["beige", "chestnut", "chocolate", "khaki", "sienna", "tan"]),
    ("black", &["ebony"]),
    ("white", &["alabaster", "ivory", "pearl"]),
    ("gray", &["charcoal", "silver"]),
];

/// Puts the usual colour after the name of a kind of it: "an azure van" becomes "an azure blue van".
pub fn with_usual_colours(text: &str) -> String {
    let mut spelled = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let length = rest[start..].find(|c: char| !c.is_alphanumeric());
        let (before, after) = rest.split_at(length.map_or(rest.len(), |length| start + length));
        spelled.push_str(before);
        rest = after;
        if let Some(colour) = usual(&before[start..]) {
            // "cherry-coloured" is one word.
            let suffix = ["-coloured", "-colored"].iter().find(|suffix| rest.starts_with(**suffix));
            let (suffix, following) = rest.split_at(suffix.map_or(0, |suffix| suffix.len()));
            rest = following;
            spelled.push_str(suffix);
            if !rest.trim_start_matches([' ', '-']).starts_with(colour) {
                spelled.extend([" ", colour]);
            }
        }
    }
    spelled.push_str(rest);
    spelled
}

/// Returns the usual colour of which a word names a kind.
fn usual(word: &str) -> Option<&'static str> {
    let is_named = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(word));
    NAMES.iter().find(|(_, names)| is_named(names)).map(|(colour, _)| *colour)
}

/// Returns all names, for the identity of vectors that depend on them.
pub fn identity() -> String {
    format!("{NAMES:?}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_colours_follow_rarer_names() {
        let cases = [
            ("an azure van", "an azure blue van"),
            ("Somebody dressed in navy.", "Somebody dressed in navy blue."),
            ("Scarlet", "Scarlet red"),
            ("navy blue, lime-green", "navy blue, lime-green"),
            ("a cherry-coloured coat", "a cherry-coloured red coat"),
            ("gold, and a LIME top", "gold yellow, and a LIME green top"),
            ("a red car, a goldfish and amber2", "a red car, a goldfish and amber2"),
            ("Ein größerer Hund, 犬", "Ein größerer Hund, 犬"),
            ("", ""),
        ];
        for (text, spelled) in cases {
            assert_eq!(with_usual_colours(text), spelled);
        }
    }

    proptest! {
        #[test]
        fn any_text_keeps_its_words(text in "(\\PC|[ -]|gold|olive){0,40}") {
            let spelled = with_usual_colours(&text);
            let mut letters = spelled.chars();
            prop_assert!(text.chars().all(|c| letters.any(|found| found == c)), "{}", spelled);
        }
    }
}
