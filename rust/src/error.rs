//! One error type for the crate.
//!
//! The three kinds that a caller treats differently are kept apart: the operating system refused
//! ([`Error::Io`]), a file is not what it claims to be ([`Error::Format`]), or an argument makes no
//! sense ([`Error::Input`]). [`Error::Interrupted`] is the answer to a caller's own request to stop.

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// `what` is the file's path, or the name of the format when the bytes came from memory.
    #[error("{what}: {message}")]
    Format { what: String, message: String },
    #[error("{0}")]
    Input(String),
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), source }
    }

    pub fn format(what: impl ToString, message: impl ToString) -> Self {
        Self::Format { what: what.to_string(), message: message.to_string() }
    }

    pub fn input(message: impl ToString) -> Self {
        Self::Input(message.to_string())
    }
}
