//! Shortens errors that repeat what a client or a file contains.

/// Maximum length of the two ends of a shortened text, in characters.
const ENDS: (usize, usize) = (600, 300);

/// Returns an error as one line. Control characters are escaped, and the middle of a long text is left
/// out.
pub fn one_line(text: &str) -> String {
    let (start, end) = ENDS;
    let characters = text.chars().count();
    let escaped = |c: char| match c {
        '\n' | '\t' => " ".to_owned(),
        c if c.is_control() || is_invisible(c) => c.escape_unicode().to_string(),
        c => c.to_string(),
    };
    if characters <= start + end {
        return text.chars().map(escaped).collect();
    }
    let skipped = characters - end;
    let first = text.chars().take(start).map(escaped);
    first.chain([" … ".to_owned()]).chain(text.chars().skip(skipped).map(escaped)).collect()
}

/// Returns true for characters that change how a terminal shows others.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_short_line_with_both_ends() {
        assert_eq!(one_line("fps = 0: wanted 1 to 30"), "fps = 0: wanted 1 to 30");
        assert_eq!(one_line("a\nb\u{1b}[2Jc\u{202e}d"), "a b\\u{1b}[2Jc\\u{202e}d");
        let long = format!("fps = \"{}\": wanted 1 to 30", "é".repeat(100_000));
        let short = one_line(&long);
        assert!(short.len() < 2000, "{} bytes", short.len());
        assert!(
            short.starts_with("fps = \"é") && short.ends_with("é\": wanted 1 to 30"),
            "{short}"
        );
    }
}
