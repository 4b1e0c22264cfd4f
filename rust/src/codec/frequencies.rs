//! Probabilities as whole numbers that sum to a power of two, as a range coder needs them.

use std::borrow::Borrow;
use std::num::NonZeroU32;

use constriction::stream::model::{DecoderModel, EncoderModel, EntropyModel};

use crate::{Error, Result};

/// Frequencies sum to 2^PRECISION.
pub const PRECISION: usize = 24;
const TOTAL: u32 = 1 << PRECISION;
/// Below 1 by more than the rounding of a row's sum, so that frequencies never sum to too much.
const MARGIN: f32 = 1.0 - 1e-4;
/// Tokens between two of the sums by which a quantile is found.
const STRIDE: usize = 32;

/// The distribution of one token. Every token has at least one part in 2^24.
pub struct Frequencies {
    frequencies: Vec<u32>,
    /// Of each STRIDE tokens, the sum of all frequencies before them.
    before: Vec<u32>,
}

impl Frequencies {
    /// InputError where a vocabulary leaves too little room for anything but its least frequencies.
    pub fn new(vocab_size: usize) -> Result<Self> {
        if !(2..=1 << 16).contains(&vocab_size) {
            return Err(Error::input(format!("a vocabulary has 2 to 65536 tokens, not {vocab_size}")));
        }
        Ok(Self { frequencies: vec![0; vocab_size], before: vec![0; vocab_size.div_ceil(STRIDE)] })
    }

    /// Takes over a row that sums to one, but for float rounding.
    pub fn round(&mut self, row: &[f32]) {
        let scale = (TOTAL - row.len() as u32) as f32 * MARGIN;
        for (frequency, probability) in self.frequencies.iter_mut().zip(row) {
            *frequency = 1 + (probability * scale) as i32 as u32;
        }
        let mut sum = 0;
        for (before, frequencies) in self.before.iter_mut().zip(self.frequencies.chunks(STRIDE)) {
            *before = sum;
            sum += frequencies.iter().sum::<u32>();
        }
        // What rounding left over goes to the last token: any would do that both sides agree on, and
        // this one moves no sum.
        if let Some(last) = self.frequencies.last_mut() {
            *last += TOTAL - sum;
        }
    }

    /// Adds all frequencies to a checksum.
    pub fn add_to(&self, checksum: &mut crc32fast::Hasher) {
        let bytes: Vec<u8> = self.frequencies.iter().flat_map(|frequency| frequency.to_le_bytes()).collect();
        checksum.update(&bytes);
    }

    fn cumulative(&self, token: usize) -> u32 {
        let start = token / STRIDE;
        self.before[start] + self.frequencies[start * STRIDE..token].iter().sum::<u32>()
    }
}

/// Zero only if [`Frequencies::round`] was never called.
fn nonzero(frequency: u32) -> NonZeroU32 {
    NonZeroU32::new(frequency).unwrap_or(NonZeroU32::MIN)
}

impl EntropyModel<PRECISION> for Frequencies {
    type Symbol = u16;
    type Probability = u32;
}

impl EncoderModel<PRECISION> for Frequencies {
    fn left_cumulative_and_probability(&self, token: impl Borrow<u16>) -> Option<(u32, NonZeroU32)> {
        let token = usize::from(*token.borrow());
        let frequency = *self.frequencies.get(token)?;
        Some((self.cumulative(token), nonzero(frequency)))
    }
}

impl DecoderModel<PRECISION> for Frequencies {
    fn quantile_function(&self, quantile: u32) -> (u16, u32, NonZeroU32) {
        let start = self.before.partition_point(|&before| before <= quantile).saturating_sub(1);
        let mut token = start * STRIDE;
        let mut left = self.before[start];
        while token + 1 < self.frequencies.len() && left + self.frequencies[token] <= quantile {
            left += self.frequencies[token];
            token += 1;
        }
        (token as u16, left, nonzero(self.frequencies[token]))
    }
}
