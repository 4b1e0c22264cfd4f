//! How versions 1 and 2 code one order, kept so that they can be read: which n-grams there are, and their weights, decision
//! by decision.
//!
//! The contexts, i.e. the n-grams of the order below, are visited in their order. Since every kept n-gram's suffix is
//! kept too, a context h can only be continued by tokens that continue h', which is h without its oldest token. Such a
//! token is a *candidate*: the n-gram h' and it, of the order below. Of each context the stream tells
//!
//! - whether it is continued at all;
//! - for each candidate, the likeliest first, whether it continues h, and after each that does, whether another will;
//! - the step of b(h);
//! - for each continuation but the first, the step of the ratio of its discounted probability to the first's.
//!
//! Each decision is predicted from what both sides know by then: above all how often h, and the candidate after it,
//! may be expected to occur in the training text. Encoder and decoder run the same code, so they cannot disagree: an
//! encoder codes the decisions of its source, a decoder ignores those it is given (it has no source) and takes what the
//! coder returns.

use std::ops::Range;

use super::binary_coder::{hash, BinaryCoder, ContextMixer, DISTANCE_SETS};
use super::known::Invalid;
use super::restore::{log2_16ths, power_of_two_halves, RestoredOrder, Symbols, BACKOFF_LIMIT, RATIO_LIMIT};

/// Hashed contexts of one order's mixer, as a power of two.
const SLOT_BITS: u32 = 20;

/// Sets of mixing weights, selected by what is decided and how many continuations were found, ...
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

/// How often something was met, and how often it was true; old observations fade.
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
    // Each part comes with the number of its values. One outside of them collides with another, which costs a little
    // compression and no more.
    parts
        .iter()
        .fold(0, |packed: u32, &(value, size)| packed.wrapping_mul(size as u32).wrapping_add(value as u32))
}

/// Decisions, each predicted and then coded.
struct Decisions<'a, C> {
    mixer: ContextMixer,
    coder: &'a mut C,
}

impl<C: BinaryCoder> Decisions<'_, C> {
    #[inline]
    fn code<const K: usize>(&mut self, decision: bool, contexts: &[u32; K], sets: [usize; 2]) -> bool {
        self.mixer.code(self.coder, decision, contexts, 0, sets)
    }

    /// A step of at most `limit` to either side, by its distance from `expected`.
    #[inline]
    fn code_step<const K: usize>(
        &mut self,
        (step, expected): (i8, i32),
        limit: i8,
        contexts: &[u32; K],
        sets: [usize; 2],
    ) -> i8 {
        let range = -i32::from(limit)..=i32::from(limit);
        self.mixer.code_near(self.coder, (i32::from(step), expected), range, contexts, sets[0], sets[1]) as i8
    }
}

/// Codes one order. `source` is what to encode; a decoder has none. `limit` is the number of n-grams. `go_on` is called
/// from time to time, with the number of n-grams so far, and says whether to continue.
pub fn code_order<C: BinaryCoder>(
    coder: &mut C,
    shorter: &RestoredOrder,
    contexts: &RestoredOrder,
    source: Option<&Symbols>,
    limit: usize,
    mut go_on: impl FnMut(&C, usize) -> bool,
) -> Result<Symbols, Invalid> {
    let mut symbols = Symbols::default();
    symbols.first.reserve_exact(contexts.len() + 1);
    symbols.first.push(0);
    symbols.backoffs.reserve_exact(contexts.len());
    let largest = contexts.tokens.iter().copied().max().unwrap_or(0);
    let mut order = OrderCoder {
        decisions: Decisions { mixer: ContextMixer::new(SLOT_BITS, SETS), coder },
        shorter,
        contexts,
        source,
        limit,
        context_histories: vec![History::default(); shorter.len()],
        candidate_histories: vec![History::default(); contexts.len()],
        sought: vec![NOT_SOUGHT; usize::from(largest) + 1],
        found: Vec::new(),
        sorted: Vec::new(),
        symbols,
    };
    for context in 0..contexts.len() {
        let backoff = order.code_context(context)?;
        let symbols = &mut order.symbols;
        symbols.backoffs.push(backoff);
        symbols.first.push(symbols.tokens.len() as u32);
        if context % 1024 == 0 && !go_on(order.decisions.coder, symbols.tokens.len()) {
            return Err(Invalid::Interrupted);
        }
    }
    Ok(order.symbols)
}

/// In place of an index into the source: the token doesn't continue the context, or there is no source.
const NOT_SOUGHT: u32 = u32::MAX;

/// An order while it is encoded or decoded.
struct OrderCoder<'a, C> {
    decisions: Decisions<'a, C>,
    /// The n-grams two orders below: of each context, the context that its last token continues.
    shorter: &'a RestoredOrder,
    /// The n-grams of the order below, each of which may be continued.
    contexts: &'a RestoredOrder,
    source: Option<&'a Symbols>,
    limit: usize,
    /// Of each shorter context, how often the contexts that end with it were continued.
    context_histories: Vec<History>,
    /// Of each n-gram of the order below, how often it was a continuation when it was a candidate.
    candidate_histories: Vec<History>,
    /// For each token, where the source has it after the context at hand.
    sought: Vec<u32>,
    /// The continuations of the context at hand, in the order found: the candidate, and its index in the source.
    found: Vec<(u32, u32)>,
    /// The same in the order of their tokens, with the steps of their ratios.
    sorted: Vec<(u16, i8)>,
    symbols: Symbols,
}

impl<C: BinaryCoder> OrderCoder<'_, C> {
    /// Codes everything about one context; returns the step of its back-off weight.
    fn code_context(&mut self, context: usize) -> Result<i8, Invalid> {
        let (shorter, contexts) = (self.shorter, self.contexts);
        let stem = contexts.suffixes[context] as usize;
        let candidates = &contexts.ranked[shorter.successors(stem)];
        if candidates.is_empty() {
            return Ok(0);
        }
        let wanted = self.source.map_or(0..0, |source| source.successors(context));
        let features = ContextFeatures::new(shorter, contexts, context, stem, candidates.len());
        let history = &mut self.context_histories[stem];
        let continued = features.code_continued(&mut self.decisions, !wanted.is_empty(), *history);
        history.add(continued);
        if !continued {
            return Ok(0);
        }
        let likelihood = self.code_candidates(&features, candidates, wanted);
        if self.found.is_empty() {
            return Err(Invalid::NoContinuation);
        }
        if self.symbols.tokens.len() + self.found.len() > self.limit {
            return Err(Invalid::TooMany);
        }
        Ok(self.code_weights(&features, context, likelihood))
    }

    /// Codes which candidates continue the context, into `found`; returns their likelihood in the shorter context.
    fn code_candidates(
        &mut self,
        features: &ContextFeatures,
        candidates: &[u32],
        wanted: Range<usize>,
    ) -> f32 {
        self.found.clear();
        self.seek(wanted.clone(), |index| index as u32);
        let (mut likelihood_left, mut likelihood_found) = (1.0, 0.0);
        let mut next_contexts = features.token_contexts(candidates[0] as usize);
        for (rank, &candidate) in candidates.iter().enumerate() {
            let here = candidate as usize;
            let token_contexts = next_contexts;
            if let Some(&next) = candidates.get(rank + 1) {
                // These are too many to stay in the processor's caches.
                next_contexts = features.token_contexts(next as usize);
                self.decisions.mixer.prefetch(next_contexts);
            }
            let index = self.sought[usize::from(self.contexts.tokens[here])];
            let candidate_features =
                CandidateFeatures::new(features, here, token_contexts, rank, self.found.len());
            let history = &mut self.candidate_histories[here];
            let is_wanted = index != NOT_SOUGHT;
            let present =
                features.code_present(&mut self.decisions, is_wanted, &candidate_features, *history);
            history.add(present);
            let likelihood = self.contexts.probabilities[here];
            likelihood_left -= likelihood;
            if !present {
                continue;
            }
            likelihood_found += likelihood;
            self.found.push((candidate, index));
            let rest = Rest {
                found: self.found.len(),
                candidates: candidates.len() - 1 - rank,
                log_expected: features.log_count + log2_16ths(f32::max(likelihood_left, 1e-5)),
            };
            let more = self.found.len() < wanted.len();
            if rest.candidates > 0
                && !features.code_more(&mut self.decisions, more, &candidate_features, &rest)
            {
                break;
            }
        }
        self.seek(wanted, |_| NOT_SOUGHT);
        likelihood_found
    }

    /// Sets `sought` of each token that the source has at `wanted` to what `note` makes of its index.
    fn seek(&mut self, wanted: Range<usize>, note: impl Fn(usize) -> u32) {
        let Some(source) = self.source else { return };
        for index in wanted {
            self.sought[usize::from(source.tokens[index])] = note(index);
        }
    }

    /// Codes the weights of the context and of the continuations `found`; returns the step of the former.
    fn code_weights(&mut self, features: &ContextFeatures, context: usize, likelihood: f32) -> i8 {
        let step = self.source.map_or(0, |source| source.backoffs[context]);
        let backoff = features.code_backoff(&mut self.decisions, step, self.found.len(), likelihood);
        let mut ratios = Ratios::new(features, backoff, self.found[0].0 as usize, self.found.len());
        self.sorted.clear();
        for (rank, &(candidate, index)) in self.found.iter().enumerate() {
            let step = self.source.map_or(0, |source| source.ratios[index as usize]);
            let step = ratios.code(&mut self.decisions, step, rank, candidate as usize);
            self.sorted.push((self.contexts.tokens[candidate as usize], step));
        }
        self.sorted.sort_unstable();
        self.symbols.tokens.extend(self.sorted.iter().map(|&(token, _)| token));
        self.symbols.ratios.extend(self.sorted.iter().map(|&(_, step)| step));
        backoff
    }
}

/// What is left of a context's candidates after one that continues it.
struct Rest {
    /// Continuations so far.
    found: usize,
    /// Candidates still to come.
    candidates: usize,
    /// log2 of how often they may be expected after the context, in 16ths.
    log_expected: i32,
}

/// What is known of a context before anything of it is coded. Logarithms are log2 in 16ths; `half` ones count
/// half octaves, and so on.
struct ContextFeatures<'a> {
    contexts: &'a RestoredOrder,
    log_count: i32,
    half_count: i32,
    octave_count: i32,
    /// Half octaves by which h' is expected more often than h.
    rarity: i32,
    /// Octaves of the number of candidates.
    width: i32,
    /// Half octaves by which h's last token is likelier after the rest of h than after the rest of h'.
    lift: i32,
    /// Step of b(h'), halved.
    stem_backoff: i32,
    last: i32,
    oldest: i32,
}

/// What is known of a candidate when it is its turn.
struct CandidateFeatures {
    /// Expected occurrences of the candidate after h.
    log_expected: i32,
    log_likelihood: i32,
    lift: i32,
    rank: i32,
    /// Class of the number of continuations found so far.
    hits: i32,
    /// Hashes of the contexts that hold the candidate's token.
    token_contexts: [u32; 2],
}

impl CandidateFeatures {
    fn new(
        features: &ContextFeatures,
        candidate: usize,
        token_contexts: [u32; 2],
        rank: usize,
        found: usize,
    ) -> Self {
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
    fn new(
        shorter: &'a RestoredOrder,
        contexts: &'a RestoredOrder,
        context: usize,
        stem: usize,
        width: usize,
    ) -> Self {
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
        decisions: &mut Decisions<C>,
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
        decisions.code(continued, &contexts, [CONTINUED, select(CONTINUED_BY, octave + 3)])
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
        decisions: &mut Decisions<C>,
        present: bool,
        candidate: &CandidateFeatures,
        history: History,
    ) -> bool {
        let octave = self.octave_count;
        let half = candidate.half_expected();
        let history = history.class() as i32;
        let contexts = [
            hash(11, pack(&[(half, 64), (octave, 64)])),
            hash(12, pack(&[(half, 64), (candidate.lift, 64)])),
            hash(
                13,
                pack(&[
                    ((candidate.log_expected >> 2).clamp(-40, 60), 128),
                    (candidate.rank, 16),
                    (candidate.hits, 8),
                ]),
            ),
            candidate.token_contexts[0],
            hash(15, pack(&[(half, 64), (octave, 64), (self.rarity, 32)])),
            hash(16, pack(&[(self.last, 1 << 16), (half >> 1, 64)])),
            candidate.token_contexts[1],
            hash(
                18,
                pack(&[
                    ((candidate.log_likelihood >> 3).clamp(-40, 0), 64),
                    (self.rarity, 32),
                    (candidate.hits, 8),
                ]),
            ),
            hash(
                19,
                pack(&[(candidate.lift, 64), (octave, 64), (self.rarity >> 1, 16), (candidate.hits, 8)]),
            ),
            hash(20, pack(&[(history, 256), (half, 64)])),
            hash(10, pack(&[(history, 256), (octave, 64), (self.rarity, 32)])),
        ];
        let sets = [PRESENT + candidate.hits as usize, select(PRESENT_BY, (half >> 1) + 8)];
        decisions.code(present, &contexts, sets)
    }

    fn code_more<C: BinaryCoder>(
        &self,
        decisions: &mut Decisions<C>,
        more: bool,
        candidate: &CandidateFeatures,
        rest: &Rest,
    ) -> bool {
        let (half, octave) = (self.half_count, self.octave_count);
        let found = log2_of(rest.found, 1).min(20);
        let left = (rest.log_expected >> 3).clamp(-10, 40);
        let contexts = [
            hash(21, pack(&[(half, 64), (found, 32)])),
            hash(22, pack(&[(left, 64), (found, 32)])),
            hash(23, pack(&[(octave, 64), (self.rarity, 32), (found, 32)])),
            hash(24, pack(&[(octave, 64), (log2_of(rest.candidates, 0).min(10), 16), (found, 32)])),
            hash(25, pack(&[(self.last, 1 << 16), (found, 32)])),
            hash(26, pack(&[(candidate.half_expected(), 64), (octave, 64), (candidate.hits, 8)])),
        ];
        let sets = [MORE + candidate.hits as usize, select(MORE_BY, octave + 3)];
        decisions.code(more, &contexts, sets)
    }

    fn code_backoff<C: BinaryCoder>(
        &self,
        decisions: &mut Decisions<C>,
        step: i8,
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
        let sets = [BACKOFF, BACKOFF_BY + number.min(7) as usize];
        decisions.code_step((step, 0), BACKOFF_LIMIT, &contexts, sets)
    }
}

/// The discounted probabilities of a context's continuations, by their ratios to that of the first.
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
        decisions: &mut Decisions<C>,
        step: i8,
        rank: usize,
        candidate: usize,
    ) -> i8 {
        if rank == 0 {
            return 0;
        }
        let likelihoods = &self.features.contexts.log_probabilities;
        let (here, first) = (i32::from(likelihoods[candidate]), i32::from(likelihoods[self.first]));
        let lower = ((here - first) * 3 / 32).clamp(-40, 0);
        let kept = (self.log_kept >> 3).clamp(-4, 40);
        let occurrences = ((self.features.log_count + here) >> 3).clamp(-20, 30);
        let occurrences_first = ((self.features.log_count + first) >> 4).clamp(-10, 20);
        let mean = (log2_16ths(self.total / rank as f32) >> 4).clamp(-8, 8);
        let contexts = [
            hash(41, pack(&[(lower, 64)])),
            hash(42, pack(&[(lower, 64), (occurrences, 64)])),
            hash(43, pack(&[(occurrences_first, 64), (occurrences, 64)])),
            hash(44, pack(&[(lower, 64), (kept, 64), (self.found.min(4) as i32, 8)])),
            hash(45, pack(&[(mean, 32), (kept, 64), (rank.min(7) as i32, 8)])),
            hash(46, pack(&[(mean, 32), (lower, 64)])),
        ];
        // Discounted probabilities differ about a third as much as the likelihoods after shorter contexts do.
        let expected = lower / 4;
        let coded = decisions.code_step((step, expected), RATIO_LIMIT, &contexts, [RATIO, RATIO_BY]);
        self.total += power_of_two_halves(coded);
        coded
    }
}
