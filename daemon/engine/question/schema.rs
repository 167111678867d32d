//! Compiles the schema of a question before the question enters the queue.
//!
//! Compiling takes milliseconds, so it is done on a thread for blocking work. The question already
//! holds its place in the queue, which bounds the number of schemas that are compiled together.

use std::sync::Arc;

use super::frames::QueueSlot;
use super::pass::Accepted;
use crate::engine::Engine;
use crate::language::{Schema, SchemaCompiler};
use crate::metrics;
use crate::service::AskError;
use crate::timeline::{Selection, TimeRange};

impl Engine {
    /// Sets the compiler of the loaded model, once.
    pub fn accept_schemas(&self, schemas: Arc<SchemaCompiler>) {
        // A second model is never loaded.
        let _ = self.schemas.set(schemas);
    }

    /// Compiles the schema and begins the question, or refuses it.
    pub(super) async fn begin_by_schema(
        self: Arc<Engine>,
        schema: String,
        question: Accepted,
        parts: Vec<TimeRange>,
        selection: Selection,
        slot: QueueSlot,
    ) {
        match self.compile(schema).await {
            Ok(schema) => {
                let question = Accepted { schema: Some(schema), ..question };
                self.begin(question, parts, selection, slot).await;
            }
            Err(error) => {
                metrics::question_refused(error.reason());
                question.fail(error);
            }
        }
    }

    async fn compile(&self, schema: String) -> Result<Arc<Schema>, AskError> {
        let Some(compiler) = self.schemas.get().cloned() else {
            return Err(refused("no model is loaded that could follow a schema".into()));
        };
        let compiled = tokio::task::spawn_blocking(move || compiler.compile(&schema));
        // Only a runtime that shuts down cancels the task.
        let compiled = compiled.await.map_err(|_| AskError::Stopping)?;
        compiled.map(Arc::new).map_err(|error| refused(error.to_string()))
    }
}

fn refused(why: String) -> AskError {
    AskError::InvalidField { field: "schema", why }
}
