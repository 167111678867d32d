//! Chooses the files of a repository that make a model package.
//!
//! Guarantees: each chosen file has a plain name, is at the top or in `onnx/`, and has a hash. There
//! is one graph of each kind, so that the folder needs no `model.precision`.

use super::listing::ListedFile;
use super::repository::Repository;
use crate::config::{Bytes, Precision};
use crate::model::GraphKind;

/// Beginnings of the names of licence files.
const LICENCES: [&str; 3] = ["LICENSE", "LICENCE", "NOTICE"];

/// Returns the files of the package, small ones first.
pub fn choose(
    files: &[ListedFile],
    repository: &Repository,
    precision: &Precision,
) -> Result<Vec<ListedFile>, String> {
    let wrong = |why: String| format!("{} is not a model package: {why}", repository.name);
    let is_there = |name: &str| files.iter().any(|file| file.name == name);
    let mut chosen: Vec<&ListedFile> = files.iter().filter(|file| is_text(&file.name)).collect();
    for kind in GraphKind::ALL {
        let graph = graph(files, kind, precision).map_err(|why| match why {
            Wrong::Missing(why) => wrong(format!("{why}{}", advice(files, repository))),
            Wrong::Choice(why) => format!("{}: {why}", repository.name),
        })?;
        chosen.extend(with_weights(files, graph));
    }
    for text in ["config.json", "tokenizer.json"] {
        if !is_there(text) {
            return Err(wrong(format!("{text} is missing")));
        }
    }
    if !is_there("preprocessor_config.json") && !is_there("processor_config.json") {
        return Err(wrong("preprocessor_config.json is missing".into()));
    }
    if let Some(file) = chosen.iter().find(|file| file.hash.is_none()) {
        return Err(format!(
            "{}: the hub states no hash of {}, so that the file cannot be checked",
            repository.name, file.name
        ));
    }
    let mut chosen: Vec<ListedFile> = chosen.into_iter().cloned().collect();
    chosen.sort_by_key(|file| file.size);
    Ok(chosen)
}

enum Wrong {
    Missing(String),
    Choice(String),
}

/// Returns true for the texts of a package, and for a licence.
fn is_text(name: &str) -> bool {
    let is_package_text = [".json", ".jinja"].iter().any(|end| name.ends_with(end));
    // An index names files of weights that are not part of a package.
    is_plain(name)
        && ((is_package_text && !name.ends_with(".index.json"))
            || LICENCES.iter().any(|begin| name.starts_with(begin)))
}

/// Returns true for the name of a file, which is not that of a folder or a hidden file.
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Returns the name of a file in `onnx/`.
fn in_onnx(file: &ListedFile) -> Option<&str> {
    file.name.strip_prefix("onnx/").filter(|name| is_plain(name))
}

/// Returns the graph of a kind in the wanted precision.
fn graph<'a>(
    files: &'a [ListedFile],
    kind: GraphKind,
    precision: &Precision,
) -> Result<&'a ListedFile, Wrong> {
    let graph = |file: &'a ListedFile| Some((kind.precision_of(in_onnx(file)?)?, file));
    let found: Vec<(&str, &ListedFile)> = files.iter().filter_map(graph).collect();
    let name = kind.name();
    let there = || {
        let size = |file| with_weights(files, file).map(|file| file.size).sum();
        let all = found.iter().map(|(name, file)| format!("{name} ({})", Bytes::b(size(*file))));
        all.collect::<Vec<_>>().join(", ")
    };
    match (kind.choice(precision), found.as_slice()) {
        (_, []) => Err(Wrong::Missing(format!("onnx/{name}.onnx is missing"))),
        (None, [(_, file)]) => Ok(file),
        (None, _) => Err(Wrong::Choice(format!(
            "onnx/ holds {name} in {}; choose one by --precision",
            there()
        ))),
        (Some(wanted), _) => {
            let file = found.iter().find(|(name, _)| *name == wanted).map(|(_, file)| *file);
            file.ok_or_else(|| {
                Wrong::Choice(format!(
                    "--precision asks for {name} in {wanted:?}; onnx/ holds {}",
                    there()
                ))
            })
        }
    }
}

/// Returns a graph and the files with its weights: `NAME.onnx_data`, `NAME.onnx.data` and so on.
fn with_weights<'a>(
    files: &'a [ListedFile],
    graph: &'a ListedFile,
) -> impl Iterator<Item = &'a ListedFile> {
    files.iter().filter(|file| file.name.starts_with(&graph.name) && in_onnx(file).is_some())
}

/// Returns what to do with a repository that has weights in another layout.
fn advice(files: &[ListedFile], repository: &Repository) -> String {
    let is_weights =
        |file: &ListedFile| [".safetensors", ".bin"].iter().any(|end| file.name.ends_with(end));
    if files.iter().any(is_weights) {
        return format!("; make one of its weights by `lookout-export {} OUT`", repository.name);
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::super::listing::Hash;
    use super::*;

    const TEXTS: [&str; 3] = ["config.json", "tokenizer.json", "preprocessor_config.json"];
    const GRAPHS: [&str; 3] =
        ["onnx/vision_encoder.onnx", "onnx/embed_tokens.onnx", "onnx/decoder_model_merged.onnx"];

    fn listed(names: &[&str]) -> Vec<ListedFile> {
        let hash = Some(Hash::Git(String::new()));
        let file = |(at, name): (usize, &&str)| ListedFile {
            name: (*name).into(),
            size: at as u64,
            hash: hash.clone(),
        };
        names.iter().enumerate().map(file).collect()
    }

    fn chosen(names: &[&str], precision: Precision) -> Result<Vec<String>, String> {
        let repository = "yard/llava".parse().unwrap();
        let files = choose(&listed(names), &repository, &precision)?;
        Ok(files.into_iter().map(|file| file.name).collect())
    }

    fn refusal(names: &[&str]) -> String {
        chosen(names, Precision::default()).expect_err("refused")
    }

    #[test]
    fn a_package_is_its_texts_its_graphs_and_their_weights() {
        let package = [&TEXTS[..], &GRAPHS].concat();
        let more = ["LICENSE.txt", "chat_template.jinja", "onnx/decoder_model_merged.onnx_data_1"];
        let other = [
            "README.md",
            "model.safetensors",
            "model.safetensors.index.json",
            "../config.json",
            "onnx/../../a.json",
            "/etc/a.json",
            ".a.json",
            "onnx/embed_tokens.onnx/../../x",
            "other/config.json",
            "onnx/decoder_model.onnx",
            "a\u{1b}.json",
        ];
        let wanted: Vec<_> = [&package[..], &more].concat();
        assert_eq!(chosen(&[&wanted[..], &other].concat(), Precision::default()).unwrap(), wanted);
    }

    #[test]
    fn one_graph_of_each_kind_is_taken() {
        let names = [&TEXTS[..], &GRAPHS, &["onnx/decoder_model_merged_q4.onnx"]].concat();
        let error = refusal(&names);
        assert!(error.contains("decoder_model_merged in fp32 (5 B), q4 (6 B)"), "{error}");
        assert!(error.contains("--precision"), "{error}");
        let q4 = Precision { decoder: Some("q4".into()), ..Precision::default() };
        let found = chosen(&names, q4).unwrap();
        assert!(found.contains(&"onnx/decoder_model_merged_q4.onnx".into()), "{found:?}");
        assert!(!found.contains(&"onnx/decoder_model_merged.onnx".into()), "{found:?}");
        let error = chosen(&names, Precision::all("int8")).expect_err("refused");
        assert!(error.contains("vision_encoder in \"int8\"; onnx/ holds fp32"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        for missing in [&TEXTS[..], &GRAPHS].concat() {
            let names: Vec<&str> = [&TEXTS[..], &GRAPHS]
                .concat()
                .into_iter()
                .filter(|name| *name != missing)
                .collect();
            let error = refusal(&names);
            assert!(error.contains(missing) && error.contains("yard/llava"), "{error}");
        }
        let error = refusal(&["config.json", "model-00001-of-00002.safetensors"]);
        assert!(error.contains("`lookout-export yard/llava OUT`"), "{error}");
    }

    #[test]
    fn a_file_without_a_hash_is_refused() {
        let mut files = listed(&[&TEXTS[..], &GRAPHS].concat());
        files[3].hash = None;
        let repository = "yard/llava".parse().unwrap();
        let error = choose(&files, &repository, &Precision::default()).expect_err("refused");
        assert!(error.contains("no hash of onnx/vision_encoder.onnx"), "{error}");
    }
}
