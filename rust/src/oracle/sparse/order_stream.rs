//! The stream of one order: which n-grams there are, and their weights, decision by decision.
//!
//! The contexts, i.e. the n-grams of the order below, are visited in their order. Since every kept n-gram's suffix is
//! kept too, a context h can only be continued by tokens that continue h', which is h without its oldest token. Such a
//! token is a *candidate*: the n-gram h' and it, of the order below. A stream has two parts with a coder each:
//!
//! - [`super::continuations`]: which candidates continue each context;
//! - [`super::weights`]: the steps of b(h) and of the continuations' discounted probabilities.
//!
//! The second needs the first, but not the other way round. So one thread can decode each; an encoder, which knows the n-grams beforehand, can make both parts of all orders at the
//! same time.
//!
//! Each decision is predicted from what both sides know by then: above all how often h, and the candidate after it,
//! may be expected to occur in the training text. Encoder and decoder run the same code, so they cannot disagree: an
//! encoder codes the decisions of its source, a decoder ignores those it is given (it has no source) and takes what the
//! coder returns.

use std::sync::mpsc;

use super::binary_coder::{BinaryCoder, Encoder};
use super::continuations::ContinuationsCoder;
use super::known::{Invalid, Known};
use super::restore::{RestoredOrder, Suffix, Symbols};
use super::weights::WeightsCoder;
use crate::parallel::Control;
use crate::{Error, Result};

/// Contexts that are coded between two looks at what else happens.
const BLOCK: usize = 1 << 10;

/// Blocks that one thread may be ahead of the other.
const AHEAD: usize = 16;

/// The continuations of consecutive contexts.
#[derive(Default)]
struct Block {
    /// Where those of each context end.
    ends: Vec<usize>,
    found: Vec<Suffix>,
}

/// Decodes one order with the coders of its two parts, on one thread or two. `has_blocks` says whether candidates are in
/// blocks, as they are from version 4 on; `limit` is the number of n-grams. `go_on` is
/// called from time to time with each coder and says whether to continue.
///
/// `visit` is called for each context in turn with the step of its back-off weight, and with its continuations in the order
/// of their tokens and the steps of their ratios.
pub fn decode<C: BinaryCoder + Send>(
    [continuations, weights]: &mut [C; 2],
    [shorter, contexts]: [&RestoredOrder; 2],
    has_blocks: bool,
    limit: usize,
    threads: usize,
    go_on: impl Fn(&C) -> bool + Sync,
    mut visit: impl FnMut(i8, &[(Suffix, i8)]),
) -> std::result::Result<(), Invalid> {
    let known = Known::new(shorter, contexts);
    let mut continuations = ContinuationsCoder::new(&known, continuations, None, limit, has_blocks);
    let mut weights = WeightsCoder::new(weights, None);
    let mut code_continuations = |start: usize, block: &mut Block| {
        for context in start..contexts.len().min(start + BLOCK) {
            continuations.prefetch(context);
            if let Some(features) = known.context(context) {
                continuations.code_context(context, &features, &mut block.found, &go_on)?;
            }
            block.ends.push(block.found.len());
        }
        if go_on(continuations.coder) {
            Ok(())
        } else {
            Err(Invalid::Interrupted)
        }
    };
    let mut code_weights = |start: usize, block: &Block| {
        let mut begin = 0;
        for (context, &end) in (start..).zip(&block.ends) {
            let found = &block.found[begin..end];
            begin = end;
            match known.context(context).filter(|_| !found.is_empty()) {
                Some(features) => {
                    let (backoff, sorted) = weights.code_context(context, &features, found);
                    visit(backoff, sorted);
                }
                None => visit(0, &[]),
            }
        }
        if go_on(weights.coder) {
            Ok(())
        } else {
            Err(Invalid::Interrupted)
        }
    };
    let starts = (0..contexts.len()).step_by(BLOCK);
    if threads < 2 || contexts.len() <= BLOCK {
        let mut block = Block::default();
        for start in starts {
            block.ends.clear();
            block.found.clear();
            code_continuations(start, &mut block)?;
            code_weights(start, &block)?;
        }
        return Ok(());
    }
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(AHEAD);
        let ahead = scope.spawn(move || {
            for start in starts {
                let mut block = Block::default();
                code_continuations(start, &mut block)?;
                if sender.send((start, block)).is_err() {
                    // The other thread has found an error.
                    break;
                }
            }
            Ok(())
        });
        // The iterator owns the receiver, so an error ends the other thread.
        let behind = receiver.into_iter().try_for_each(|(start, block)| code_weights(start, &block));
        let ahead = ahead.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // As on one thread, the error of the earlier block.
        behind.and(ahead)
    })
}

/// The first part of a stream of an order from 2 on.
pub fn encode_continuations(
    [shorter, contexts]: [&RestoredOrder; 2],
    symbols: &Symbols,
    has_blocks: bool,
    control: &Control,
) -> Result<Vec<u8>> {
    let known = Known::new(shorter, contexts);
    let mut encoder = Encoder::new();
    let limit = symbols.tokens.len();
    let mut coder = ContinuationsCoder::new(&known, &mut encoder, Some(symbols), limit, has_blocks);
    let go_on = |_: &Encoder| control.check().is_ok();
    let mut found = Vec::new();
    for context in 0..contexts.len() {
        coder.prefetch(context);
        if let Some(features) = known.context(context) {
            found.clear();
            match coder.code_context(context, &features, &mut found, go_on) {
                Ok(()) => {}
                Err(Invalid::Interrupted) => return Err(Error::Interrupted),
                Err(invalid) => unreachable!("{invalid:?}: kept n-grams are closed under prefix and suffix"),
            }
        }
    }
    Ok(encoder.finish())
}

/// The second part; `suffixes` are those of the order's n-grams.
pub fn encode_weights(
    [shorter, contexts]: [&RestoredOrder; 2],
    symbols: &Symbols,
    suffixes: &[Suffix],
    control: &Control,
) -> Result<Vec<u8>> {
    let known = Known::new(shorter, contexts);
    let mut encoder = Encoder::new();
    let mut coder = WeightsCoder::new(&mut encoder, Some(symbols));
    let mut found = Vec::new();
    for context in 0..contexts.len() {
        if context % BLOCK == 0 {
            control.check()?;
        }
        let range = symbols.successors(context);
        if let Some(features) = known.context(context).filter(|_| !range.is_empty()) {
            found.clear();
            found.extend_from_slice(&suffixes[range]);
            // Likeliest first; of equals, the lower token, which stands first and stays there.
            found.sort_by(|a, b| b.probability.total_cmp(&a.probability));
            coder.code_context(context, &features, &found);
        }
    }
    Ok(encoder.finish())
}

/// The stream of two parts.
pub fn join([continuations, weights]: [Vec<u8>; 2]) -> Vec<u8> {
    let mut stream = (continuations.len() as u32).to_le_bytes().to_vec();
    stream.extend(continuations);
    stream.extend(weights);
    stream
}

/// The two parts of a stream; none if it is shorter than it says.
pub fn parts(stream: &[u8]) -> Option<[&[u8]; 2]> {
    let (length, parts) = stream.split_first_chunk()?;
    let (continuations, weights) = parts.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some([continuations, weights])
}
