//! The reason a command ends early, and the exit codes of the program: 0 done, 1 failed while
//! running, 2 cannot begin (config, model, address).

/// An error with the exit code that it ends the program with.
pub struct Failure {
    pub code: u8,
    pub error: anyhow::Error,
}

impl Failure {
    /// Creates a failure from before the work began: exit code 2.
    pub fn cannot_begin(error: impl Into<anyhow::Error>) -> Failure {
        Failure { code: 2, error: error.into() }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure { code: 1, error: error.into() }
    }
}
