//! The token that a client sends, if the daemon has access control.

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// The variable with the token, if no file is named.
const VARIABLE: &str = "LOOKOUT_TOKEN";

/// Reads the token from a file, or from the variable `LOOKOUT_TOKEN`. The error does not repeat it.
pub fn read(file: Option<&Path>) -> Result<Option<String>, String> {
    let text = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file);
            Some(text.map_err(|why| format!("--token-file: {}: {why}", file.display()))?)
        }
        None => std::env::var(VARIABLE).ok(),
    };
    Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
}

/// Adds the token to each request.
#[derive(Clone)]
pub struct AddToken(Option<MetadataValue<Ascii>>);

impl AddToken {
    pub fn new(token: Option<&str>) -> Result<AddToken, String> {
        let value = token.map(|token| format!("Bearer {token}").parse());
        let value = value.transpose().map_err(|_| "the token has characters that no token has")?;
        Ok(AddToken(value))
    }
}

impl Interceptor for AddToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}
