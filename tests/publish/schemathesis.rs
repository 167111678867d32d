//! Tests the HTTP API with requests that schemathesis makes of its OpenAPI document: valid ones and
//! invalid ones.

use super::api::Server;
use super::mcp::fill;
use super::*;

const PROGRAM: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/target/schemathesis-env/bin/schemathesis");

/// The rules that every reply must obey.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,unsupported_method,\
                      negative_data_rejection";

/// Longest run, on a loaded machine.
const RUN_TIME: Duration = Duration::from_secs(300);

#[tokio::test]
async fn replies_conform_to_the_document() {
    let daemon = Daemon::start(1000).await;
    fill(&daemon);
    let server = Server::start_patient(&daemon).await;
    let folder = tempfile::tempdir().unwrap();
    let mut program = tokio::process::Command::new(PROGRAM);
    // Names that exist, so that not only refusals are compared.
    let names = format!("[parameters]\n\"path.camera\" = \"gate\"\n\"path.event\" = \"{RUN}.1\"\n");
    std::fs::write(folder.path().join("schemathesis.toml"), names).unwrap();
    // The same requests each time.
    program
        .current_dir(folder.path())
        .args(["run", &format!("http://{}/api/v1/openapi.json", server.address)])
        .args(["--checks", CHECKS, "--phases", "coverage,fuzzing"])
        .args(["--max-examples", "20", "--generation-deterministic"])
        .args(["--suppress-health-check", "all", "--no-color"])
        .args(["--request-timeout", "60", "--request-retries", "3"])
        .kill_on_drop(true);
    let run = timeout(RUN_TIME, program.output()).await;
    let run = run.expect("too slow").expect("run `.ci/setup test` first");
    let report = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{report}{}", String::from_utf8_lossy(&run.stderr));
    assert!(report.contains("Operations:"), "{report}");
    server.stopped().await;
}
