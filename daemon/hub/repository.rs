//! The name of a repository, as a user writes it.

use std::str::FromStr;

/// A repository of a hub, and one of its revisions: `ORGANISATION/NAME[@REVISION]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Repository {
    /// `ORGANISATION/NAME`.
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl Repository {
    /// Returns the name without the organisation.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }
}

impl FromStr for Repository {
    type Err = String;

    fn from_str(text: &str) -> Result<Repository, String> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let is_name = name.split('/').count() == 2 && name.split('/').all(plain);
        if !is_name || !revision.split('/').all(plain) {
            return Err("wanted ORGANISATION/NAME or ORGANISATION/NAME@REVISION".into());
        }
        Ok(Repository { name: name.into(), revision: revision.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_an_organisation_a_name_and_maybe_a_revision() {
        let read = |text: &str| text.parse::<Repository>().map(|r| (r.name, r.revision));
        assert_eq!(read("yard/llava-1.5"), Ok(("yard/llava-1.5".into(), "main".into())));
        assert_eq!(read("yard/llava@refs/pr/3"), Ok(("yard/llava".into(), "refs/pr/3".into())));
        for text in
            ["llava", "a/b/c", "../b", "a/..", "a/b@", "a/b@../c", "a/b?x", "https://h/b", "/b"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
