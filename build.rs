//! Compiles the proto files to Rust types with protox, so no protoc is needed.

use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["lookout/v1/lookout.proto"], ["proto"])?;
    // The descriptor set for gRPC reflection.
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("lookout.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(files)?;
    Ok(())
}
