//! The files of a repository, as the hub lists them.

use serde::Deserialize;
use serde_json::Value;

/// Maximum number of characters of a text that a hub sends, such as a licence.
const TEXT: usize = 100;

/// A repository at one commit.
#[derive(Debug)]
pub struct Listing {
    pub commit: String,
    /// The licence's name, or a sentence if the repository states none.
    pub licence: String,
    pub files: Vec<ListedFile>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListedFile {
    /// Path in the repository.
    pub name: String,
    pub size: u64,
    pub hash: Option<Hash>,
}

/// The hash of a file's content, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq)]
pub enum Hash {
    /// Hash of a file that is stored with Git LFS or Xet.
    Sha256(String),
    /// Git's hash of any other file. Its input begins with the file's size.
    Git(String),
}

#[derive(Deserialize)]
struct Reply {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData")]
    card: Option<Card>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
}

#[derive(Deserialize)]
struct Card {
    license: Option<Value>,
    license_name: Option<String>,
    license_link: Option<String>,
}

impl Listing {
    /// Reads the hub's reply to a request for a model's description.
    pub fn parse(reply: &[u8]) -> Result<Listing, String> {
        let reply: Reply = serde_json::from_slice(reply).map_err(|error| error.to_string())?;
        let is_hex = reply.sha.len() >= 40 && reply.sha.chars().all(|c| c.is_ascii_hexdigit());
        if !is_hex {
            return Err("its sha is not a commit".into());
        }
        let files = reply.siblings.into_iter().filter_map(|file| {
            let hash = match (file.lfs, file.blob_id) {
                (Some(lfs), _) => Some(Hash::Sha256(lfs.sha256.to_ascii_lowercase())),
                (None, blob) => blob.map(|blob| Hash::Git(blob.to_ascii_lowercase())),
            };
            Some(ListedFile { name: file.rfilename, size: file.size?, hash })
        });
        let licence = reply.card.and_then(licence);
        let licence = licence.unwrap_or_else(|| "not stated; read the model's card".into());
        Ok(Listing { commit: reply.sha, licence, files: files.collect() })
    }
}

fn licence(card: Card) -> Option<String> {
    let kind = match card.license? {
        Value::String(kind) => kind,
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        _ => return None,
    };
    let more = [card.license_name, card.license_link].into_iter().flatten();
    let text = [kind].into_iter().chain(more).collect::<Vec<_>>().join(" ");
    Some(plain(&text)).filter(|text| !text.is_empty())
}

/// Returns a text of the hub without control characters, and not longer than [`TEXT`].
fn plain(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = shown.take(TEXT).collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn parse(reply: Value) -> Result<Listing, String> {
        Listing::parse(reply.to_string().as_bytes())
    }

    #[test]
    fn files_have_the_hash_of_their_storage() {
        let files = json!([
            {"rfilename": "config.json", "size": 5, "blobId": "AB"},
            {"rfilename": "onnx/a.onnx", "size": 7, "blobId": "cd", "lfs": {"sha256": "EF"}},
            {"rfilename": "without size", "blobId": "cd"},
        ]);
        let listing = parse(json!({"sha": COMMIT, "siblings": files})).unwrap();
        let file =
            |name: &str, size, hash| ListedFile { name: name.into(), size, hash: Some(hash) };
        assert_eq!(
            listing.files,
            [
                file("config.json", 5, Hash::Git("ab".into())),
                file("onnx/a.onnx", 7, Hash::Sha256("ef".into())),
            ]
        );
        assert!(listing.licence.starts_with("not stated"), "{}", listing.licence);
        assert!(parse(json!({"sha": "../../main"})).is_err());
    }

    #[test]
    fn a_licence_is_one_line_of_plain_text() {
        let stated = |card: Value| parse(json!({"sha": COMMIT, "cardData": card})).unwrap().licence;
        assert_eq!(stated(json!({"license": "apache-2.0"})), "apache-2.0");
        assert_eq!(stated(json!({"license": ["mit", "bsd"]})), "mit, bsd");
        let other = json!({"license": "other", "license_name": "yard", "license_link": "LICENSE"});
        assert_eq!(stated(other), "other yard LICENSE");
        assert_eq!(stated(json!({"license": "a\u{1b}[2J\nb"})), "a [2J b");
        assert_eq!(stated(json!({"license": "x".repeat(500)})).len(), TEXT);
    }
}
