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
    /// The context, as vLLM lists it.
    max_model_len: Option<usize>,
    /// Further properties, among which llama-server lists the context.
    #[serde(default)]
    meta: serde_json::Value,
}

impl ServedModel {
    /// Returns the maximum number of tokens of a prompt and its answer, if the server tells.
    pub fn context(&self) -> Option<usize> {
        self.max_model_len.or_else(|| self.meta["n_ctx"].as_u64()?.try_into().ok())
    }
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
