//! The interface of a language back end. The worker knows a language model only by it.
//!
//! [`LanguageModel`](super::LanguageModel) runs the model in this process with onnxruntime.
//! [`VllmModel`](super::VllmModel) and [`OpenAiModel`](super::OpenAiModel) send requests to servers.

use super::slots::Room;
use super::{LanguageError, Limits, OnOutput, Request, SequenceId, Submitted};

/// Generates text and scores questions, for several requests at a time.
///
/// A sequence lives from [`submit`] to its [`Output::Finished`], [`Output::Scored`] or
/// [`Output::Failed`], or to [`cancel`]. An error [`LanguageError::Broken`] ends all sequences.
///
/// [`submit`]: LanguageBackend::submit
/// [`cancel`]: LanguageBackend::cancel
/// [`Output::Finished`]: super::Output::Finished
/// [`Output::Scored`]: super::Output::Scored
/// [`Output::Failed`]: super::Output::Failed
pub trait LanguageBackend {
    /// Returns the maximum number of sequences at a time.
    fn slots(&self) -> usize;

    /// Returns which requests can be submitted now. Requests beyond it fail. If every slot is in use
    /// nevertheless, a sequence in the background must be cancelled before.
    fn room(&self) -> Room;

    /// Starts a sequence. Leaves out the oldest earlier turns if not all of them fit.
    fn submit(&mut self, request: Request<'_>) -> Result<Submitted, LanguageError>;

    /// Advances the sequences and delivers their new outputs. Returns soon: after one step of the
    /// decoder, or after a short wait for an engine elsewhere.
    fn poll(&mut self, on_output: &mut OnOutput<'_>) -> Result<(), LanguageError>;

    /// Ends a sequence without further output. Does nothing if it has ended.
    fn cancel(&mut self, id: SequenceId) -> Result<(), LanguageError>;
}

/// Checks prompts before they are needed, on any thread while the model runs.
pub trait CheckPrompts: Send + Sync {
    /// Checks that a prompt about a video of `video_tokens` tokens is usable.
    fn check(&self, prompt: &str, video_tokens: usize, limits: Limits)
    -> Result<(), LanguageError>;

    /// Checks that the model can score a yes/no question.
    fn check_scored(&self, question: &str, video_tokens: usize) -> Result<(), LanguageError>;

    /// Checks that texts can follow a schema.
    fn check_schemas(&self) -> Result<(), LanguageError>;
}

impl<B: LanguageBackend + ?Sized> LanguageBackend for Box<B> {
    fn slots(&self) -> usize {
        (**self).slots()
    }

    fn room(&self) -> Room {
        (**self).room()
    }

    fn submit(&mut self, request: Request<'_>) -> Result<Submitted, LanguageError> {
        (**self).submit(request)
    }

    fn poll(&mut self, on_output: &mut OnOutput<'_>) -> Result<(), LanguageError> {
        (**self).poll(on_output)
    }

    fn cancel(&mut self, id: SequenceId) -> Result<(), LanguageError> {
        (**self).cancel(id)
    }
}
