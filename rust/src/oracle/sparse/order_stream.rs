//! The stream of one order: which n-grams there are, and their weights, decision by decision.
//!
//! The contexts, i.e. the n-grams of the order below, are visited in their order. Since every kept
//! n-gram's suffix is kept too, a context h can only be continued as h', h without its oldest token, is:
//! those *candidates* are walked, the likeliest first. A walk is
//!
//! - whether h is continued at all;
//! - for each candidate whether it continues h, and after each that does, whether another will;
//! - the level of b(h);
//! - for each continuation but the first, the level of its gain's ratio to the first's.
//!
//! Each decision is predicted from what both sides know by then: above all how often h, and the
//! candidate after it, may be expected to occur in the training text. Encoder and decoder run the same
//! code, so they can't disagree on it.

use super::binary_coder::{hash, BinaryCoder, ContextMixer, DISTANCE_SETS};
use super::restore::{log2_16ths, power_of_two_halves, RestoredOrder, Symbols, BACKOFF_LIMIT, RATIO_LIMIT};

/// Hashed contexts of one order's mixer, as a power of two.
const SLOT_BITS: u32 = 20;

/// Mixers, selected by what is decided and how far the walk is, ...
const CONTINUED: usize = 0;
const PRESENT: usize = 1;
const MORE: usize = PRESENT + 5;
const BACKOFF: usize = MORE + 5;
const RATIO: usize = BACKOFF + DISTANCE_SETS;
/// ... and by the expected count, or the number of continuations.
const CONTINUED_BY: usize = RATIO + DISTANCE_SETS;
const PRESENT_BY: usize = CONTINUED_BY + 32;
const MORE_BY: usize = PRESENT_BY + 32;
const BACKOFF_BY: usize = MORE_BY + 32;
const RATIO_BY: usize = BACKOFF_BY + 8;
const SETS: usize = RATIO_BY + 1;

/// Why a stream makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// A context that is continued, but by none of its candidates.
    NoContinuation,
    /// More n-grams than announced.
    TooMany,
    Interrupted,
}

/// How often something was met, and how often it was the case; old observations fade.
#[derive(Clone, Copy, Default)]
struct History {
    met: u8,
    hits: u8,
}

impl History {
    fn add(&mut self, hit: bool) {
        if self.met < 255 {
            self.met += 1;
            self.hits += u8::from(hit);
        } else {
            self.met = 128;
            self.hits /= 2;
        }
    }

    /// Both in steps of about two thirds of an octave.
    fn class(self) -> u32 {
        let class = |count: u8| ((log2_16ths(f32::from(count) + 1.0) * 3) >> 5).min(11) as u32;
        class(self.hits) * 16 + class(self.met)
    }
}

/// log2 of a small number, in steps of `1 / 2^fine`.
fn log2_of(count: usize, fine: u32) -> i32 {
    log2_16ths(count as f32) >> (4 - fine)
}

fn pack(parts: &[(i32, i32)]) -> u32 {
    // Each part with the number of values it may take; what lies outside is folded back in, which
    // costs a little compression and no more.
    parts
        .iter()
        .fold(0, |packed: u32, &(value, size)| packed.wrapping_mul(size as u32).wrapping_add(value as u32))
}

/// Codes one order. `source` is what to encode; a decoder has none. `limit` is the number of n-grams.
pub fn code_order<C: BinaryCoder>(
    coder: &mut C,
    shorter: &RestoredOrder,
    contexts: &RestoredOrder,
    source: Option<&Symbols>,
    limit: usize,
    mut go_on: impl FnMut(&C, usize) -> bool,
) -> Result<Symbols, Invalid> {
    let mut mixer = ContextMixer::new(SLOT_BITS, SETS);
    let mut symbols = Symbols::default();
    symbols.first.reserve_exact(contexts.len() + 1);
    symbols.first.push(0);
    symbols.backoffs.reserve_exact(contexts.len());
    let mut context_history = vec![History::default(); shorter.len()];
    let mut candidate_history = vec![History::default(); contexts.len()];
    // For each token, where `source` has it after the present context.
    let mut sought = vec![u32::MAX; usize::from(contexts.tokens.iter().copied().max().unwrap_or(0)) + 1];
    // The continuations of the present context, in the order found: candidate, and index in `source`.
    let mut found: Vec<(u32, u32)> = Vec::new();
    let mut sorted: Vec<(u16, i8)> = Vec::new();

    for context in 0..contexts.len() {
        let stem = contexts.suffixes[context] as usize;
        let candidates = &contexts.ranked[shorter.successors(stem)];
        let mut backoff = 0;
        if !candidates.is_empty() {
            let wanted = source.map_or(0..0, |s| s.first[context] as usize..s.first[context + 1] as usize);
            let features = ContextFeatures::new(shorter, contexts, context, stem, candidates.len());
            let history = &mut context_history[stem];
            let continued = features.code_continued(&mut mixer, coder, !wanted.is_empty(), *history);
            history.add(continued);
            if continued {
                found.clear();
                if let Some(source) = source {
                    for index in wanted.clone() {
                        sought[usize::from(source.tokens[index])] = index as u32;
                    }
                }
                let mut likelihood_left = 1.0;
                let mut likelihood_found = 0.0;
                let mut next_contexts = features.token_contexts(candidates[0] as usize);
                for (rank, &candidate) in candidates.iter().enumerate() {
                    let here = candidate as usize;
                    let token_contexts = next_contexts;
                    if let Some(&next) = candidates.get(rank + 1) {
                        // These are too many to stay in the processor's caches.
                        next_contexts = features.token_contexts(next as usize);
                        mixer.prefetch(next_contexts);
                    }
                    let index = sought[usize::from(contexts.tokens[here])];
                    let present = index != u32::MAX;
                    let last = rank + 1 == candidates.len();
                    let history = &mut candidate_history[here];
                    let step = CandidateFeatures::new(&features, here, token_contexts, rank, found.len());
                    let present = features.code_present(&mut mixer, coder, present, &step, *history);
                    history.add(present);
                    let likelihood = contexts.probabilities[here];
                    likelihood_left -= likelihood;
                    if present {
                        likelihood_found += likelihood;
                        found.push((candidate, index));
                        if !last {
                            let more = found.len() < wanted.len();
                            let rest = candidates.len() - 1 - rank;
                            let left = features.log_count + log2_16ths(f32::max(likelihood_left, 1e-5));
                            if !features.code_more(&mut mixer, coder, more, &step, found.len(), rest, left) {
                                break;
                            }
                        }
                    }
                }
                if found.is_empty() {
                    return Err(Invalid::NoContinuation);
                }
                if symbols.tokens.len() + found.len() > limit {
                    return Err(Invalid::TooMany);
                }
                let level = source.map_or(0, |source| source.backoffs[context]);
                backoff = features.code_backoff(&mut mixer, coder, level, found.len(), likelihood_found);
                sorted.clear();
                let mut ratios = Ratios::new(&features, backoff, found[0].0 as usize, found.len());
                for (order, &(candidate, index)) in found.iter().enumerate() {
                    let level = source.map_or(0, |source| source.ratios[index as usize]);
                    let level = ratios.code(&mut mixer, coder, level, order, candidate as usize);
                    sorted.push((contexts.tokens[candidate as usize], level));
                }
                if let Some(source) = source {
                    for index in wanted {
                        sought[usize::from(source.tokens[index])] = u32::MAX;
                    }
                }
                sorted.sort_unstable();
                symbols.tokens.extend(sorted.iter().map(|&(token, _)| token));
                symbols.ratios.extend(sorted.iter().map(|&(_, ratio)| ratio));
            }
        }
        symbols.backoffs.push(backoff);
        symbols.first.push(symbols.tokens.len() as u32);
        if context % 1024 == 0 && !go_on(coder, symbols.tokens.len()) {
            return Err(Invalid::Interrupted);
        }
    }
    Ok(symbols)
}

/// A context and what is known of it before its walk. Logarithms are log2 in 16ths; `half` ones count
/// half octaves, and so on.
struct ContextFeatures<'a> {
    contexts: &'a RestoredOrder,
    log_count: i32,
    half_count: i32,
    octave_count: i32,
    /// Half octaves by which h' is more frequent than h.
    rarity: i32,
    /// Octaves of the number of candidates.
    width: i32,
    /// Half octaves by which h's last token is likelier after the rest of h than after the rest of h'.
    lift: i32,
    stem_backoff: i32,
    last: i32,
    oldest: i32,
}

/// One candidate, and how far the walk is.
struct CandidateFeatures {
    /// Expected occurrences of the candidate after h.
    log_expected: i32,
    log_likelihood: i32,
    lift: i32,
    rank: i32,
    /// Class of the number of continuations found.
    hits: i32,
    /// Hashes of the contexts that hold the candidate's token.
    token_contexts: [u32; 2],
}

impl CandidateFeatures {
    fn new(features: &ContextFeatures, candidate: usize, token_contexts: [u32; 2], rank: usize, found: usize) -> Self {
        let contexts = features.contexts;
        let log_likelihood = i32::from(contexts.log_probabilities[candidate]);
        Self {
            log_expected: features.log_count + log_likelihood,
            log_likelihood,
            lift: i32::from(contexts.lifts[candidate]),
            rank: log2_of(rank + 1, 0).min(10),
            hits: match found {
                0..=2 => found as i32,
                3..=7 => 3,
                _ => 4,
            },
            token_contexts,
        }
    }

    fn half_expected(&self) -> i32 {
        half_octaves(self.log_expected)
    }
}

fn half_octaves(log_expected: i32) -> i32 {
    (log_expected >> 3).clamp(-20, 30)
}

fn select(start: usize, value: i32) -> usize {
    start + value.clamp(0, 31) as usize
}

impl<'a> ContextFeatures<'a> {
    fn new(shorter: &'a RestoredOrder, contexts: &'a RestoredOrder, context: usize, stem: usize, width: usize) -> Self {
        let log_count = i32::from(contexts.log_counts[context]);
        let half_count = (log_count >> 3).clamp(-6, 50);
        Self {
            contexts,
            log_count,
            half_count,
            octave_count: half_count >> 1,
            rarity: ((i32::from(shorter.log_counts[stem]) - log_count) >> 3).clamp(-2, 30),
            width: log2_of(width + 1, 0).min(10),
            lift: i32::from(contexts.lifts[context]),
            stem_backoff: (i32::from(shorter.backoff_steps[stem]) >> 1) + 8,
            last: i32::from(contexts.tokens[context]),
            oldest: i32::from(contexts.oldest[context]),
        }
    }

    fn code_continued<C: BinaryCoder>(
        &self,
        mixer: &mut ContextMixer,
        coder: &mut C,
        continued: bool,
        history: History,
    ) -> bool {
        let (half, octave) = (self.half_count, self.octave_count);
        let contexts = [
            hash(1, pack(&[(half, 64)])),
            hash(2, pack(&[(octave, 64), (self.rarity, 64)])),
            hash(3, pack(&[(octave, 64), (self.width, 32), (self.stem_backoff, 32)])),
            hash(4, pack(&[(self.last, 1 << 16), (octave, 64)])),
            hash(5, pack(&[(self.oldest, 1 << 16), (octave, 64)])),
            hash(6, pack(&[(self.lift, 64), (octave, 64), (self.width, 32)])),
            hash(hash(7, self.last as u32), pack(&[(self.oldest, 1 << 16), (half >> 2, 64)])),
            hash(8, pack(&[(self.rarity, 64), (half, 64), (self.stem_backoff, 32)])),
            hash(9, pack(&[(history.class() as i32, 256), (half, 64)])),
        ];
        mixer.code(coder, continued, &contexts, 0, [CONTINUED, select(CONTINUED_BY, octave + 3)])
    }

    fn token_contexts(&self, candidate: usize) -> [u32; 2] {
        let half = half_octaves(self.log_count + i32::from(self.contexts.log_probabilities[candidate]));
        let token = i32::from(self.contexts.tokens[candidate]);
        [
            hash(14, pack(&[(token, 1 << 16), (half >> 1, 64)])),
            hash(hash(17, self.oldest as u32), pack(&[(token, 1 << 16), (half >> 2, 16)])),
        ]
    }

    fn code_present<C: BinaryCoder>(
        &self,
        mixer: &mut ContextMixer,
        coder: &mut C,
        present: bool,
        step: &CandidateFeatures,
        history: History,
    ) -> bool {
        let octave = self.octave_count;
        let half = step.half_expected();
        let history = history.class() as i32;
        let contexts = [
            hash(11, pack(&[(half, 64), (octave, 64)])),
            hash(12, pack(&[(half, 64), (step.lift, 64)])),
            hash(
                13,
                pack(&[((step.log_expected >> 2).clamp(-40, 60), 128), (step.rank, 16), (step.hits, 8)]),
            ),
            step.token_contexts[0],
            hash(15, pack(&[(half, 64), (octave, 64), (self.rarity, 32)])),
            hash(16, pack(&[(self.last, 1 << 16), (half >> 1, 64)])),
            step.token_contexts[1],
            hash(
                18,
                pack(&[((step.log_likelihood >> 3).clamp(-40, 0), 64), (self.rarity, 32), (step.hits, 8)]),
            ),
            hash(19, pack(&[(step.lift, 64), (octave, 64), (self.rarity >> 1, 16), (step.hits, 8)])),
            hash(20, pack(&[(history, 256), (half, 64)])),
            hash(10, pack(&[(history, 256), (octave, 64), (self.rarity, 32)])),
        ];
        let sets = [PRESENT + step.hits as usize, select(PRESENT_BY, (half >> 1) + 8)];
        mixer.code(coder, present, &contexts, 0, sets)
    }

    #[allow(clippy::too_many_arguments)]
    fn code_more<C: BinaryCoder>(
        &self,
        mixer: &mut ContextMixer,
        coder: &mut C,
        more: bool,
        step: &CandidateFeatures,
        found: usize,
        rest: usize,
        log_left: i32,
    ) -> bool {
        let (half, octave) = (self.half_count, self.octave_count);
        let found = log2_of(found, 1).min(20);
        let left = (log_left >> 3).clamp(-10, 40);
        let contexts = [
            hash(21, pack(&[(half, 64), (found, 32)])),
            hash(22, pack(&[(left, 64), (found, 32)])),
            hash(23, pack(&[(octave, 64), (self.rarity, 32), (found, 32)])),
            hash(24, pack(&[(octave, 64), (log2_of(rest, 0).min(10), 16), (found, 32)])),
            hash(25, pack(&[(self.last, 1 << 16), (found, 32)])),
            hash(26, pack(&[(step.half_expected(), 64), (octave, 64), (step.hits, 8)])),
        ];
        let sets = [MORE + step.hits as usize, select(MORE_BY, octave + 3)];
        mixer.code(coder, more, &contexts, 0, sets)
    }

    fn code_backoff<C: BinaryCoder>(
        &self,
        mixer: &mut ContextMixer,
        coder: &mut C,
        level: i8,
        found: usize,
        likelihood: f32,
    ) -> i8 {
        let (half, octave) = (self.half_count, self.octave_count);
        let number = if found < 6 { found as i32 } else { 5 + log2_of(found / 5, 0).min(6) };
        let covered = log2_16ths(likelihood);
        let expected = ((self.log_count + covered) >> 3).clamp(-20, 40);
        let uncovered = log2_16ths(f32::max(1.0 - likelihood, 1e-5));
        // Logit of the part that shorter contexts give to the continuations.
        let part = (((covered - uncovered) * 11) >> 8).clamp(-10, 8);
        let contexts = [
            hash(31, pack(&[(half, 64), (number, 32)])),
            hash(32, pack(&[(part, 32), (number, 16), (octave, 64)])),
            hash(33, pack(&[(expected, 64), (octave, 64), (i32::from(found == 1), 2)])),
            hash(34, pack(&[(octave, 64), (self.rarity, 32), (number, 16)])),
            hash(35, pack(&[(self.stem_backoff, 32), (number, 16), (octave, 64)])),
            hash(36, pack(&[(self.last, 1 << 16), (number, 16)])),
        ];
        let range = -i32::from(BACKOFF_LIMIT)..=i32::from(BACKOFF_LIMIT);
        let other = BACKOFF_BY + number.min(7) as usize;
        mixer.code_near(coder, (i32::from(level), 0), range, &contexts, BACKOFF, other) as i8
    }
}

/// The gains of a context's continuations.
struct Ratios<'a> {
    features: &'a ContextFeatures<'a>,
    /// How often the context may be expected to be followed by one of its continuations.
    log_kept: i32,
    first: usize,
    found: usize,
    /// Σ of the ratios so far.
    total: f32,
}

impl<'a> Ratios<'a> {
    fn new(features: &'a ContextFeatures, backoff: i8, first: usize, found: usize) -> Self {
        // log2(1 − b) in 16ths, b's logit being backoff / 2: about −0.72 a step above one half.
        let kept = -(i32::from(backoff.max(0)) * 23 / 2) - if backoff > -3 { 8 } else { 0 };
        Self { features, log_kept: features.log_count + kept, first, found, total: 1.0 }
    }

    fn code<C: BinaryCoder>(
        &mut self,
        mixer: &mut ContextMixer,
        coder: &mut C,
        level: i8,
        order: usize,
        candidate: usize,
    ) -> i8 {
        if order == 0 {
            return 0;
        }
        let likelihoods = &self.features.contexts.log_probabilities;
        let (here, first) = (i32::from(likelihoods[candidate]), i32::from(likelihoods[self.first]));
        let lower = ((here - first) * 3 / 32).clamp(-40, 0);
        let kept = (self.log_kept >> 3).clamp(-4, 40);
        let occurrences = ((self.features.log_count + here) >> 3).clamp(-20, 30);
        let occurrences_first = ((self.features.log_count + first) >> 4).clamp(-10, 20);
        let mean = (log2_16ths(self.total / order as f32) >> 4).clamp(-8, 8);
        let contexts = [
            hash(41, pack(&[(lower, 64)])),
            hash(42, pack(&[(lower, 64), (occurrences, 64)])),
            hash(43, pack(&[(occurrences_first, 64), (occurrences, 64)])),
            hash(44, pack(&[(lower, 64), (kept, 64), (self.found.min(4) as i32, 8)])),
            hash(45, pack(&[(mean, 32), (kept, 64), (order.min(7) as i32, 8)])),
            hash(46, pack(&[(mean, 32), (lower, 64)])),
        ];
        // Gains differ about a third as much as the likelihoods after shorter contexts do.
        let expected = lower / 4;
        let range = -i32::from(RATIO_LIMIT)..=i32::from(RATIO_LIMIT);
        let values = (i32::from(level), expected);
        let coded = mixer.code_near(coder, values, range, &contexts, RATIO, RATIO_BY) as i8;
        self.total += power_of_two_halves(coded);
        coded
    }
}
