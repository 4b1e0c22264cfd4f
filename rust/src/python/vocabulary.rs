//! Converting between `hybridlm.data.vocabulary.Vocabulary` and the core's `Vocabulary`.

use pyo3::prelude::*;

use super::errors::InputError;
use crate::vocabulary::Vocabulary;

/// A vocabulary from a number of tokens, or from anything with the attributes of `hybridlm.data.vocabulary`'s.
pub fn vocabulary(value: &Bound<'_, PyAny>) -> PyResult<Vocabulary> {
    if let Ok(size) = value.extract::<usize>() {
        return Ok(size.into());
    }
    let (size, bos): (usize, i64) = (value.getattr("size")?.extract()?, value.getattr("bos_id")?.extract()?);
    let bos = u16::try_from(bos)
        .map_err(|_| InputError::new_err(format!("document token {bos} is outside any vocabulary")))?;
    let wrong = |digits: &str| {
        InputError::new_err(format!("a tokenizer's fingerprint has 64 hexadecimal digits, unlike {digits:?}"))
    };
    let fingerprint = match value.getattr("fingerprint")?.extract::<Option<String>>()? {
        Some(digits) => Some(from_hex(&digits).ok_or_else(|| wrong(&digits))?),
        None => None,
    };
    Ok(Vocabulary { size, bos, fingerprint })
}

/// What `Vocabulary` of `hybridlm.data.vocabulary` is made of: size, document token, fingerprint in hexadecimal.
pub type Identity = (usize, u16, Option<String>);

pub fn identity(vocabulary: &Vocabulary) -> Identity {
    (vocabulary.size, vocabulary.bos, vocabulary.fingerprint.map(|fingerprint| hex(&fingerprint)))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    if digits.len() != 2 * N || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..digits.len()).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}
