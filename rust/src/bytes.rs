//! Reading fields from untrusted bytes, and the checksum of headers.

use crate::{Error, Result};

/// Fields of a file, one after the other, little-endian. Errors name `field` and where it is.
pub trait Fields {
    fn fill(&mut self, buffer: &mut [u8], field: &str) -> Result<()>;

    /// What is wrong with the field read last.
    fn error(&self, message: impl ToString) -> Error;

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        self.fill(&mut array, field)?;
        Ok(array)
    }

    fn u16(&mut self, field: &str) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    fn u32(&mut self, field: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// `length` bytes. Memory grows with those that are really there, not with the length that a file claims.
    fn bytes(&mut self, length: usize, field: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let start = bytes.len();
            bytes.resize(length.min(start + PIECE), 0);
            self.fill(&mut bytes[start..], field)?;
        }
        Ok(bytes)
    }
}

/// Bytes that are allocated at a time.
const PIECE: usize = 1 << 16;

/// Reads fields from memory.
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

impl Fields for Reader<'_> {
    fn fill(&mut self, buffer: &mut [u8], field: &str) -> Result<()> {
        buffer.copy_from_slice(self.take(buffer.len(), field)?);
        Ok(())
    }

    fn error(&self, message: impl ToString) -> Error {
        Error::format(self.what, format!("before offset {}: {}", self.offset, message.to_string()))
    }
}

/// 64-bit FNV-1a over octets: against accidents, not against an adversary.
pub fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
