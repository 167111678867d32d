//! Compares the daemon's code with the recorded behaviour of the authors' code.
//!
//! The golden set is in `tests/golden`, or in the folder named by `LOOKOUT_GOLDEN`; its `README.md`
//! describes how it was made. Every case of the manifest belongs to a suite below: an unknown
//! suite, kind or field fails by name.

mod golden_suites;

use golden_suites::{Golden, e2e, pooling, preprocess, sampling, templates, tokenization};

const SUITES: [&str; 5] = ["sampling", "pooling", "preprocess", "tokenization", "e2e"];

#[test]
fn every_file_is_as_recorded() {
    Golden::open().check_files();
}

#[test]
fn every_suite_is_known() {
    let golden = Golden::open();
    let known = |suite: &str| SUITES.contains(&suite);
    let unknown: Vec<&str> =
        golden.cases().iter().filter(|case| !known(&case.suite)).map(|case| &*case.id).collect();
    assert!(unknown.is_empty(), "cases of unknown suites: {unknown:#?}");
}

#[test]
fn sampling() {
    Golden::open().run("sampling", sampling::check);
}

#[test]
fn pooling() {
    Golden::open().run("pooling", pooling::check);
}

#[test]
fn preprocess() {
    Golden::open().run("preprocess", preprocess::check);
}

#[test]
fn tokenization() {
    Golden::open().run("tokenization", tokenization::check);
}

#[test]
fn templates() {
    templates::check();
}

#[test]
fn dates_in_templates() {
    templates::check_strftime();
}

#[test]
fn e2e_gqa_decoder() {
    Golden::open().run("e2e", e2e::gqa_decoder);
}

#[test]
fn e2e_plain_decoder() {
    Golden::open().run("e2e", e2e::plain_decoder);
}
