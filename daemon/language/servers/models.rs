//! The models that a server lists at `/v1/models`.

use std::time::Duration;

use serde::Deserialize;

use super::{Http, Problem};

#[derive(Deserialize)]
struct Listed {
    data: Vec<ServedModel>,
}

/// A model of a server.
#[derive(Deserialize)]
pub struct ServedModel {
    id: String,
    /// Maximum number of tokens of a sequence, if the server tells.
    pub max_model_len: Option<usize>,
}

/// Returns the model of this name. Some servers answer requests for any name, so that the list alone
/// shows whether it is there.
pub async fn served_model(
    http: &Http,
    server: &str,
    wanted: &str,
    patience: Duration,
) -> Result<ServedModel, Problem> {
    let listed: Listed = http.get(&format!("{server}/v1/models"), patience).await?;
    let names: Vec<String> = listed.data.iter().map(|model| format!("{:?}", model.id)).collect();
    listed.data.into_iter().find(|model| model.id == *wanted).ok_or_else(|| {
        let there = if names.is_empty() { "no model".into() } else { names.join(", ") };
        Problem::Unusable(format!(
            "it serves {there}, but language.model is {wanted:?}; change language.model or the name \
             by which it serves the model (vLLM: --served-model-name, llama-server: --alias)"
        ))
    })
}
