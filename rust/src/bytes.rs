//! Reading fields from untrusted bytes, and the checksum of headers.

use crate::{Error, Result};

/// Takes fields one after the other; every error names the data and the offset.
pub struct Reader<'a> {
    data: &'a [u8],
    offset: usize,
    what: &'a str,
}

impl<'a> Reader<'a> {
    pub fn new(data: &'a [u8], what: &'a str) -> Self {
        Self { data, offset: 0, what }
    }

    pub fn offset(&self) -> usize {
        self.offset
    }

    pub fn remaining(&self) -> usize {
        self.data.len() - self.offset
    }

    pub fn error(&self, message: impl ToString) -> Error {
        Error::format(self.what, format!("before offset {}: {}", self.offset, message.to_string()))
    }

    pub fn take(&mut self, bytes: usize, field: &str) -> Result<&'a [u8]> {
        let end = self.offset.checked_add(bytes).filter(|&end| end <= self.data.len()).ok_or_else(|| {
            let message = format!(
                "{field} at offset {} needs {bytes} bytes where {} are left",
                self.offset,
                self.remaining()
            );
            Error::format(self.what, message)
        })?;
        let taken = &self.data[self.offset..end];
        self.offset = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, field)?);
        Ok(array)
    }

    pub fn u32(&mut self, field: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub fn u64(&mut self, field: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// Refuses bytes after the last field.
    pub fn end(&self) -> Result<()> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(Error::format(
                self.what,
                format!("{left} bytes follow the end of the data at offset {}", self.offset),
            )),
        }
    }
}

/// 64-bit FNV-1a over octets: against accidents, not against an adversary.
pub fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
