//! Masks the credentials of URLs in texts. Users and passwords can be before the host, in the
//! query, and with some cameras in the path (`/user=admin_password=x_channel=1`).
//!
//! Guarantees: no value remains of a key that names a user, a password or a token, even if its
//! special characters were not escaped. Not here: a path that is entirely a secret.

use std::fmt::Write;

/// Replacement for a hidden value.
const HIDDEN: &str = "***";

/// Parts of the names of keys whose values are hidden.
const SECRET: [&str; 15] = [
    "user", "usr", "login", "account", "pass", "pwd", "psw", "token", "key", "auth", "secret",
    "cred", "sign", "session", "hash",
];

/// Secret names that are too short to be searched for as parts: only a whole word matches.
const SECRET_WHOLE: [&str; 5] = ["u", "p", "pw", "sig", "sid"];

/// Keys of paths like `/user=admin_password=x_channel=1` that may follow an underscore.
const PATH_KEYS: [&str; 9] =
    ["channel", "stream", "subtype", "ch", "chn", "chan", "profile", "media", "type"];

/// Returns the text without the user and password of any URL, and with the values of secret keys
/// hidden.
pub fn masked(text: &str) -> String {
    let ends_word = |c: char| c.is_whitespace() || matches!(c, '"' | '<' | '>');
    text.split_inclusive(ends_word).map(masked_word).collect()
}

fn masked_word(word: &str) -> String {
    match word.split_once("://") {
        Some((scheme, rest)) => {
            let shown = &rest[userinfo_end(rest)..];
            format!("{}://{}", without_secret_values(scheme), masked_word(shown))
        }
        None => without_secret_values(word),
    }
}

/// Returns the index of the host in the text after `://`.
fn userinfo_end(rest: &str) -> usize {
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let end = if splits_userinfo(rest) { rest.rfind('@') } else { authority.rfind('@') };
    end.map_or(0, |at| at + 1)
}

/// Returns true if a `/`, `?` or `#` may be part of a password: for a URL parser, the host of
/// `admin:12/34@host` is `admin`. `rest` is the text after `://`.
pub fn splits_userinfo(rest: &str) -> bool {
    let Some(end) = rest.find(['/', '?', '#']) else { return false };
    let (authority, later) = rest.split_at(end);
    let name_and_port = authority.rsplit_once(']').map_or(authority, |(_, port)| port);
    (authority.contains('@') || name_and_port.contains(':')) && later.contains('@')
}

fn without_secret_values(word: &str) -> String {
    let mut shown = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('=') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let in_query = shown.contains('?') || before.contains('?');
        shown.push_str(before);
        shown.push('=');
        rest = after;
        if names_secret(before) {
            let end = value_end(after, in_query);
            // Writing to a string does not fail.
            let _ = write!(shown, "{HIDDEN}");
            rest = &after[end..];
        }
    }
    shown + rest
}

/// Returns true if the key at the end of `before` names a secret.
fn names_secret(before: &str) -> bool {
    let name = before.rsplit(['&', '?', '/', ';', ',', '#']).next().unwrap_or(before);
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase();
    let last = name.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or(&name);
    SECRET.iter().any(|part| name.contains(part)) || SECRET_WHOLE.contains(&last)
}

/// Returns the index at which a secret value ends. Characters in doubt count as part of it.
fn value_end(text: &str, in_query: bool) -> usize {
    let ends = |(at, c): (usize, char)| match c {
        '&' => text[at + 1..].split('&').next().is_some_and(|piece| piece.contains('=')),
        '/' | '?' => !in_query,
        '_' => starts_with_key(&text[at + 1..]),
        c => c.is_whitespace() || matches!(c, '"' | '<' | '>'),
    };
    text.char_indices().find(|&at| ends(at)).map_or(text.len(), |(at, _)| at)
}

fn starts_with_key(text: &str) -> bool {
    let Some((key, _)) = text.split_once('=') else { return false };
    let key = key.to_ascii_lowercase();
    PATH_KEYS.contains(&key.as_str())
        || key.chars().all(char::is_alphanumeric) && names_secret(&key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn users_and_passwords_leave_every_url() {
        for (text, shown) in [
            (
                "from rtsp://me:pa@ss@10.0.0.1:554/a%40b to rtsps://cam/x and http://u@h",
                "from rtsp://10.0.0.1:554/a%40b to rtsps://cam/x and http://h",
            ),
            ("rtsp://admin:12/34@cam/live", "rtsp://cam/live"),
            ("rtsp://admin:a#b@cam/live", "rtsp://cam/live"),
            ("rtsp://cam/a@b", "rtsp://cam/a@b"),
            ("rtsp://[::1]/a@b", "rtsp://[::1]/a@b"),
            ("rtsp://[fe80::1]:554/x", "rtsp://[fe80::1]:554/x"),
            ("mqtt.broker = \"mqtt://me:secret@host\": no", "mqtt.broker = \"mqtt://host\": no"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn credentials_in_queries_and_paths_are_hidden() {
        for (text, shown) in [
            (
                "rtsp://h/user=admin_password=tlJwpbo6_channel=1_stream=0.sdp?real_stream",
                "rtsp://h/user=***_password=***_channel=1_stream=0.sdp?real_stream",
            ),
            (
                "rtsp://h/user=admin&password=x&channel=1&stream=0.sdp?",
                "rtsp://h/user=***&password=***&channel=1&stream=0.sdp?",
            ),
            ("rtsp://h/l?channel=1&subtype=0", "rtsp://h/l?channel=1&subtype=0"),
            ("rtsp://h/l?UserName=a&PassWord=b/c", "rtsp://h/l?UserName=***&PassWord=***"),
            ("rtsp://h/l?pwd=a&b&x=1", "rtsp://h/l?pwd=***&x=1"),
            ("rtsp://h/l?p%61ss=a#b", "rtsp://h/l?p%61ss=***"),
            ("rtsp://h/l?access_token=a.b&u=c", "rtsp://h/l?access_token=***&u=***"),
            ("cannot open /l?pw=x now", "cannot open /l?pw=*** now"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    fn key() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "user",
            "username",
            "usr",
            "pass",
            "passwd",
            "password",
            "pwd",
            "pw",
            "token",
            "key",
            "auth",
            "secret",
            "PassWord",
            "loginuse",
            "loginpas_s",
            "apiKey",
            "u",
            "p",
        ])
        .prop_filter("names a secret", |key| names_secret(key))
        .prop_map(str::to_string)
    }

    proptest! {
        #[test]
        fn a_planted_secret_is_never_shown(
            key in key(),
            secret in "[A-Z]{6,12}[-/?#@&;:!'()*+,. a-z0-9]{0,6}[A-Z]{6}",
            frame in 0usize..5,
        ) {
            let secret = secret.replace(' ', "%20");
            let url = match frame {
                0 => format!("rtsp://admin:{}@host:554/live", secret),
                1 => format!("rtsp://host/live?channel=1&{key}={}", secret.replace('&', "%26")),
                2 => format!("rtsp://host/{key}={}&channel=1", secret.replace(['/', '?'], "-")),
                3 => format!("rtsp://host/user=a_{key}={}_stream=0", secret.replace(['/', '?', '&'], "-")),
                _ => format!("rtsp://host/live?{key}={secret}&channel=1"),
            };
            let shown = masked(&format!("Could not open {url} now"));
            for piece in [&secret[..6], &secret[secret.len() - 6..]] {
                prop_assert!(!shown.contains(piece), "{url} is shown as {shown}");
            }
            prop_assert!(shown.contains("host") && shown.ends_with(" now"), "{shown}");
        }
    }
}
