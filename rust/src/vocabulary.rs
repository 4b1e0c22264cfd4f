//! What the token ids of a file mean.

use std::fmt;

use crate::bytes::Fields;
use crate::{Error, Result};

/// The document token of the tokenizers that `hybridlm data tokenizer` trains, and of files that don't say.
pub const DEFAULT_BOS: u16 = 1;

/// The most ids there can be: a shard holds each in 16 bits.
pub const MAX_SIZE: usize = 1 << 16;

const FINGERPRINT_BYTES: usize = 32;

/// Bytes of the fields that [`Vocabulary::write_identity`] makes.
pub const IDENTITY_BYTES: usize = 4 + FINGERPRINT_BYTES;

/// The identity of a tokenizer, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vocabulary {
    /// Token ids are below it.
    pub size: usize,
    /// The token that every document begins with.
    pub bos: u16,
    /// SHA-256 of the tokenizer's file; none where it isn't known.
    pub fingerprint: Option<[u8; FINGERPRINT_BYTES]>,
}

impl From<usize> for Vocabulary {
    fn from(size: usize) -> Self {
        Self { size, bos: DEFAULT_BOS, fingerprint: None }
    }
}

impl Vocabulary {
    /// Refuses a document token that is outside the vocabulary. (A vocabulary of a single token has no room for
    /// one, and may have the default.)
    pub fn check(&self) -> Result<()> {
        if usize::from(self.bos) < self.size.max(2) {
            return Ok(());
        }
        Err(Error::input(format!(
            "document token {} is outside the vocabulary of {} tokens; give the one that documents begin with",
            self.bos, self.size
        )))
    }

    /// The vocabulary of two things added up: of an unknown tokenizer if either of them is. None if the two are
    /// of different vocabularies.
    pub fn united(&self, other: &Self) -> Option<Self> {
        let known = self.fingerprint.zip(other.fingerprint);
        if (self.size, self.bos) != (other.size, other.bos) || known.is_some_and(|(one, two)| one != two) {
            return None;
        }
        Some(Self { fingerprint: known.map(|(one, _)| one), ..*self })
    }

    /// The document token (u32) and the fingerprint (zeros where it isn't known), as files have them.
    pub fn write_identity(&self, out: &mut Vec<u8>) {
        out.extend(u32::from(self.bos).to_le_bytes());
        out.extend(self.fingerprint.unwrap_or_default());
    }

    /// Reads what [`Vocabulary::write_identity`] wrote.
    pub fn read_identity(size: usize, fields: &mut impl Fields) -> Result<Self> {
        let bos = fields.u32("the document token")?;
        let fingerprint = fields.array("the tokenizer's fingerprint")?;
        Self::of_identity(size, bos, fingerprint).map_err(|error| fields.error(error))
    }

    /// A vocabulary from what a file has of it.
    pub fn of_identity(size: usize, bos: u32, fingerprint: [u8; FINGERPRINT_BYTES]) -> Result<Self> {
        let bos = u16::try_from(bos)
            .map_err(|_| Error::input(format!("document token {bos} is outside any vocabulary")))?;
        let known = fingerprint.iter().any(|&byte| byte != 0);
        let vocabulary = Self { size, bos, fingerprint: known.then_some(fingerprint) };
        vocabulary.check()?;
        Ok(vocabulary)
    }
}

/// Digits of a fingerprint in messages.
const SHOWN_BYTES: usize = 6;

impl fmt::Display for Vocabulary {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{} tokens with document token {} of ", self.size, self.bos)?;
        let Some(fingerprint) = &self.fingerprint else {
            return write!(out, "an unknown tokenizer");
        };
        write!(out, "tokenizer ")?;
        fingerprint[..SHOWN_BYTES].iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
        write!(out, "…")
    }
}
