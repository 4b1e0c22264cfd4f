//! An adaptive n-gram model: interpolated Kneser–Ney estimation, learned token by token.
//!
//! p_n(w | h) = (1 − b(h)) · (c(h w) − D) / Σ (c(h ·) − D) + b(h) · p_{n−1}(w | h′), where h′ is h without
//! its oldest tokens, down to the next shorter length, and p_0 is a smoothed unigram. As in Kneser and Ney
//! (1995), the shorter contexts count the *different* longer ones that a pair was seen in: a token is
//! counted in its longest context, and in a shorter one only if it had never followed the longer one.
//!
//! The back-off weight starts from what absolute discounting says, b₀ = D · types(h) / c(h), times a factor
//! that is learned for every class of contexts (their length, number of types, and mean count). The factor
//! follows the gradient of the final ln p, through all longer orders. Rows sum to one whatever it is: what
//! the seen tokens share is 1 − b(h).
//!
//! Memory is bounded. When the table of contexts or the store of successors is full, a sweep forgets every
//! context that was seen only once, or not at all since the sweep before; if that doesn't free half of the
//! room, also those seen less than 4 times, 8 times, and so on. Nothing else is ever forgotten.

use super::hash::finalise;
use crate::fingerprint::{Fingerprint, Stateful};
use crate::{memory, Error, Result};

/// Longest context, in tokens.
pub const MAX_LENGTH: usize = 8;

/// The lengths of context by default: those between would cost as much as they have, and say little more.
pub const LENGTHS: [usize; 5] = [1, 2, 3, 5, 8];

/// D, the absolute discount.
pub const DISCOUNT: f32 = 0.75;
/// The count that the unigram adds to each token's.
const PRIOR: f32 = 0.5;

/// Places that the table of contexts begins with.
const FIRST_CONTEXTS: usize = 1 << 12;

/// Classes of contexts of one length: 16 numbers of types by 16 mean counts. Class 0 stands for a context
/// that isn't known.
pub const CLASSES: usize = 256;
/// The factor's step is RATE, but larger for a class that was seen less than EARLY / RATE times.
const RATE: f32 = 0.003;
const EARLY: f32 = 0.5;
const BACKOFF_RANGE: (f32, f32) = (0.005, 0.995);

#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The contexts' lengths in tokens, ascending, 1 to [`MAX_LENGTH`].
    pub lengths: &'static [usize],
    /// Contexts that there is room for at most, a power of two. A context takes 16 bytes, and the store
    /// of successors at most 8 more for each; a sweep takes as much again while it lasts.
    pub contexts: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { lengths: &LENGTHS, contexts: 1 << 22 }
    }
}

/// Of each length's context.
pub type Hashes = [u64; MAX_LENGTH];

/// Where these are the preceding tokens, newest first.
fn hashes_after(recent: &[u16; MAX_LENGTH], lengths: &[usize]) -> Hashes {
    let (mut hash, mut known) = (0x9e37_79b9_7f4a_7c15, 0);
    let mut hashes = [0; MAX_LENGTH];
    for (n, &length) in lengths.iter().enumerate() {
        for &token in &recent[known..length] {
            hash = finalise(hash ^ (u64::from(token) + 1));
        }
        known = length;
        hashes[n] = hash.max(1);
    }
    hashes
}

/// What has followed one context.
#[derive(Clone, Copy, Default)]
struct Context {
    /// The context's hash, never 0; 0: a free place in the table.
    key: u64,
    /// One type: the successor itself, packed. More: where their block starts in the store.
    link: u32,
    /// Different successors.
    types: u16,
    /// Seen since the last sweep.
    recent: bool,
}

/// A token and its count, packed: successors lie close together and one load fetches many.
fn pack(token: u16, count: u32) -> u32 {
    u32::from(token) | count << 16
}

fn token_of(packed: u32) -> u16 {
    packed as u16
}

fn count_of(packed: u32) -> u32 {
    packed >> 16
}

/// The successors of contexts that have more than one, in blocks: first the sum of their counts, then
/// each one packed. A block has room for a power of two words; one that was outgrown is used again.
#[derive(Default)]
struct Store {
    words: Vec<u32>,
    free: [Vec<u32>; 18],
}

impl Store {
    fn allocate(&mut self, words: usize) -> usize {
        let room = words.next_power_of_two();
        if let Some(start) = self.free[room.trailing_zeros() as usize].pop() {
            return start as usize;
        }
        let start = self.words.len();
        self.words.resize(start + room, 0);
        start
    }

    /// A block of these successors and the sum of their counts.
    fn insert(&mut self, successors: &[u32]) -> u32 {
        let start = self.allocate(successors.len() + 1);
        self.words[start] = successors.iter().map(|&successor| count_of(successor)).sum();
        self.words[start + 1..=start + successors.len()].copy_from_slice(successors);
        start as u32
    }

    /// Adds a successor to the block of `types` ones at `start`; returns where the block is now.
    fn push(&mut self, start: u32, types: usize, successor: u32) -> u32 {
        let (old, used) = (start as usize, types + 1);
        let mut at = old;
        if used.is_power_of_two() {
            at = self.allocate(used + 1);
            self.words.copy_within(old..old + used, at);
            self.free[used.trailing_zeros() as usize].push(start);
        }
        self.words[at] += count_of(successor);
        self.words[at + used] = successor;
        at as u32
    }

    fn block(&self, start: u32, types: usize) -> (u32, &[u32]) {
        let start = start as usize;
        (self.words[start], &self.words[start + 1..=start + types])
    }
}

/// One step of the interpolation, for one token: p_n = share · (1 − b) + b · p_{n−1}.
#[derive(Clone, Copy, Default)]
struct Step {
    /// The context is the n-th by length.
    n: usize,
    class: u8,
    count: u32,
    backoff: f32,
    share: f32,
    shorter: f32,
}

/// What one context makes of its counts.
struct Seen<'a> {
    class: u8,
    backoff: f32,
    /// 1 / Σ (c − D).
    scale: f32,
    successors: &'a [u32],
}

impl Seen<'_> {
    /// (c − D) / Σ (c − D) of a successor with this count.
    fn share(&self, count: u32) -> f32 {
        (count as f32 - DISCOUNT) * self.scale
    }
}

/// About the mean count of the contexts of a class.
pub fn mean_count(class: u8) -> f64 {
    match class % 16 {
        // Most of these were seen once per type.
        0 => 1.02,
        quarter => f64::from(quarter / 4).exp2() * (1.0 + (f64::from(quarter % 4) + 0.5) / 4.0),
    }
}

/// How far one class of contexts trusts what it has seen.
#[derive(Clone, Copy)]
struct Trust {
    factor: f32,
    seen: f32,
}

/// The interpolation over all lengths, for one token.
struct Trace {
    steps: [Step; MAX_LENGTH],
    length: usize,
    probability: f32,
}

/// What the contexts say of one token, each by itself.
#[derive(Clone, Copy)]
pub struct Evidence {
    /// The class of each context, by length; known before the token.
    pub classes: [u8; MAX_LENGTH],
    /// (c − D) / Σ (c − D), of the token in each context.
    pub shares: [f32; MAX_LENGTH],
}

impl Trace {
    fn evidence(&self) -> Evidence {
        let mut found = Evidence { classes: [0; MAX_LENGTH], shares: [0.0; MAX_LENGTH] };
        for step in &self.steps[..self.length] {
            found.classes[step.n] = step.class;
            found.shares[step.n] = step.share;
        }
        found
    }
}

pub struct Backoff {
    vocab_size: usize,
    lengths: &'static [usize],
    /// Grows up to `room`.
    contexts: Vec<Context>,
    room: usize,
    taken: usize,
    store: Store,
    unigrams: Vec<u32>,
    unigram_total: u64,
    trusts: Vec<Trust>,
    /// The preceding tokens, newest first; those before the first are 0.
    recent: [u16; MAX_LENGTH],
    /// The hash of each length's context, and its place if it has one.
    hashes: Hashes,
    places: [Option<usize>; MAX_LENGTH],
}

impl Backoff {
    pub fn new(vocab_size: usize, config: Config) -> Result<Self> {
        let Config { lengths, contexts } = config;
        let ascending = lengths.windows(2).all(|pair| pair[0] < pair[1]);
        match (lengths.first(), lengths.last()) {
            (Some(1..), Some(..=MAX_LENGTH)) if ascending => {}
            _ => {
                return Err(Error::input(format!(
                    "contexts have ascending lengths of 1 to {MAX_LENGTH} tokens, not {lengths:?}"
                )))
            }
        }
        if !(256..=1 << 30).contains(&contexts) || !contexts.is_power_of_two() {
            return Err(Error::input(format!(
                "contexts must be a power of two from 2^8 to 2^30, not {contexts}"
            )));
        }
        if !(2..=usize::from(u16::MAX)).contains(&vocab_size) {
            return Err(Error::input(format!(
                "the back-off model takes 2 to 65535 tokens, not {vocab_size}"
            )));
        }
        let mut model = Self {
            vocab_size,
            lengths,
            contexts: vec![Context::default(); contexts.min(FIRST_CONTEXTS)],
            room: contexts,
            taken: 0,
            store: Store::default(),
            unigrams: vec![0; vocab_size],
            unigram_total: 0,
            trusts: vec![Trust { factor: 1.0, seen: 0.0 }; lengths.len() * CLASSES],
            recent: [0; MAX_LENGTH],
            hashes: [0; MAX_LENGTH],
            places: [None; MAX_LENGTH],
        };
        model.locate();
        Ok(model)
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The longest known context: how many tokens it has, and whether only one token has followed it.
    pub fn longest(&self) -> (usize, bool) {
        let known = (0..self.lengths.len())
            .rev()
            .find_map(|n| Some((self.lengths[n], self.contexts[self.places[n]?].types == 1)));
        known.unwrap_or((0, false))
    }

    /// P(token | all tokens so far).
    pub fn probability(&self, token: u16) -> f32 {
        self.trace(token).probability
    }

    /// P(v | all tokens so far) for every v, in the same arithmetic as [`Self::probability`].
    pub fn row(&self, out: &mut [f32]) {
        let total = self.prior_total();
        for (out, &count) in out.iter_mut().zip(&self.unigrams) {
            *out = (count as f32 + PRIOR) / total;
        }
        for (n, place) in self.places[..self.lengths.len()].iter().enumerate() {
            let Some(at) = *place else { continue };
            let seen = self.seen(n, at);
            out.iter_mut().for_each(|out| *out *= seen.backoff);
            for &successor in seen.successors {
                out[usize::from(token_of(successor))] +=
                    seen.share(count_of(successor)) * (1.0 - seen.backoff);
            }
        }
    }

    /// The class of each context of the next token, by length.
    pub fn classes(&self, out: &mut [u8]) {
        for ((n, place), out) in self.places.iter().enumerate().zip(out) {
            *out = place.map_or(0, |at| self.seen(n, at).class);
        }
    }

    /// The evidence for a token, each context by itself.
    pub fn evidence(&self, token: u16) -> Evidence {
        self.trace(token).evidence()
    }

    /// Adds to `out` [V] the n-th context's shares by length, times `weight`; nothing if it isn't known.
    pub fn add_shares(&self, n: usize, weight: f32, out: &mut [f32]) {
        let Some(at) = self.places[n] else { return };
        let seen = self.seen(n, at);
        for &successor in seen.successors {
            out[usize::from(token_of(successor))] += weight * seen.share(count_of(successor));
        }
    }

    /// Learns the token that came. Returns the probability that it had, and the evidence for it.
    pub fn update(&mut self, token: u16) -> (f32, Evidence) {
        let trace = self.trace(token);
        self.learn_trust(&trace);
        self.make_room();
        // The longest contexts, down to the first that the token has followed before.
        let known = trace.steps[..trace.length].iter().rev().find(|step| step.count > 0);
        for n in known.map_or(0, |step| step.n)..self.lengths.len() {
            self.count(n, token);
        }
        if known.is_none() {
            self.unigrams[usize::from(token)] += 1;
            self.unigram_total += 1;
        }
        self.recent.copy_within(0..MAX_LENGTH - 1, 1);
        self.recent[0] = token;
        self.locate();
        (trace.probability, trace.evidence())
    }

    fn prior_total(&self) -> f32 {
        self.unigram_total as f32 + PRIOR * self.vocab_size as f32
    }

    fn trace(&self, token: u16) -> Trace {
        let mut probability = (self.unigrams[usize::from(token)] as f32 + PRIOR) / self.prior_total();
        let mut steps = [Step::default(); MAX_LENGTH];
        let mut length = 0;
        for (n, place) in self.places[..self.lengths.len()].iter().enumerate() {
            let Some(at) = *place else { continue };
            let seen = self.seen(n, at);
            let found = seen.successors.iter().find(|&&successor| token_of(successor) == token);
            let count = found.map_or(0, |&successor| count_of(successor));
            let share = if count > 0 { seen.share(count) } else { 0.0 };
            steps[length] =
                Step { n, class: seen.class, count, backoff: seen.backoff, share, shorter: probability };
            length += 1;
            probability = probability * seen.backoff + share * (1.0 - seen.backoff);
        }
        Trace { steps, length, probability }
    }

    /// Moves each factor along ∂ ln p / ∂ ln factor = b · (p_{n−1} − share) · Π longer b / p, which lies
    /// between −b / (1 − b) and 1.
    fn learn_trust(&mut self, trace: &Trace) {
        let mut chain = 1.0 / trace.probability;
        for step in trace.steps[..trace.length].iter().rev() {
            let gradient = step.backoff * chain * (step.shorter - step.share);
            let trust = &mut self.trusts[step.n * CLASSES + usize::from(step.class)];
            let rate = RATE.max(EARLY / (trust.seen + 20.0));
            // Where a context is very sure the gradient is steep; one token should not overturn it.
            let change = 1.0 + rate * gradient.max(-20.0);
            trust.factor = (trust.factor * change.clamp(0.5, 2.0)).clamp(0.1, 20.0);
            trust.seen += 1.0;
            chain *= step.backoff;
        }
    }

    /// What the n-th context by length, at a place of the table, has seen.
    fn seen(&self, n: usize, at: usize) -> Seen<'_> {
        let context = &self.contexts[at];
        let types = f32::from(context.types);
        let (total, successors) = match context.types {
            1 => (count_of(context.link), std::slice::from_ref(&context.link)),
            types => self.store.block(context.link, usize::from(types)),
        };
        let mean = total as f32 / types;
        // Four steps per doubling: the float's exponent and the first two bits of its fraction.
        let mean_class = ((mean.to_bits() >> 21) - (127 << 2)).min(15) as usize;
        let types_class = (16 - context.types.leading_zeros()).min(15) as usize;
        let class = types_class * 16 + mean_class;
        let (least, most) = BACKOFF_RANGE;
        let backoff = (DISCOUNT / mean * self.trusts[n * CLASSES + class].factor).clamp(least, most);
        Seen { class: class as u8, backoff, scale: 1.0 / (total as f32 - DISCOUNT * types), successors }
    }

    /// Counts a token in the n-th context by length, which is entered if it is new.
    fn count(&mut self, n: usize, token: u16) {
        let at = self.places[n].or_else(|| self.place(self.hashes[n]).ok());
        let at = at.unwrap_or_else(|| self.enter(self.hashes[n]));
        let context = &mut self.contexts[at];
        context.recent = true;
        let types = usize::from(context.types);
        let successors = match types {
            0 | 1 => std::slice::from_mut(&mut context.link),
            _ => &mut self.store.words[context.link as usize + 1..][..types],
        };
        let found = successors[..types].iter().position(|&successor| token_of(successor) == token);
        match (found, types) {
            (None, 0) => context.link = pack(token, 1),
            (None, 1) => context.link = self.store.insert(&[context.link, pack(token, 1)]),
            (None, _) => context.link = self.store.push(context.link, types, pack(token, 1)),
            (Some(index), _) => {
                successors[index] += pack(0, 1);
                let full = count_of(successors[index]) == u32::from(u16::MAX);
                if full {
                    // Counts have 16 bits: halve them all, so that their proportions stay.
                    successors.iter_mut().for_each(|s| *s = pack(token_of(*s), count_of(*s).div_ceil(2)));
                }
                let sum = full.then(|| successors.iter().map(|&s| count_of(s)).sum());
                if index > 0 && count_of(successors[index]) > count_of(successors[index - 1]) {
                    // The frequent ones move to the front, where they are found soonest.
                    successors.swap(index, index - 1);
                }
                if types > 1 {
                    let total = &mut self.store.words[context.link as usize];
                    *total = sum.unwrap_or(*total + 1);
                }
            }
        }
        context.types += u16::from(found.is_none());
    }

    /// Makes room for the contexts of one more token.
    fn make_room(&mut self) {
        let crowded = self.taken + self.lengths.len() > self.contexts.len() / 4 * 3;
        if self.store.words.len() > 2 * self.room || crowded && self.contexts.len() == self.room {
            self.sweep();
        } else if crowded {
            self.rebuild(2 * self.contexts.len(), 0);
        } else {
            return;
        }
        self.locate();
    }

    /// Forgets contexts until at least half of the room is free.
    fn sweep(&mut self) {
        let mut least = 2;
        loop {
            self.rebuild(self.contexts.len(), least);
            if self.taken <= self.contexts.len() / 2 && self.store.words.len() <= self.room {
                break;
            }
            least *= 2;
        }
        self.contexts.iter_mut().for_each(|context| context.recent = false);
    }

    /// Moves contexts into a table of another size: all if `least` is 0, else those that were seen at least
    /// `least` times, and since the last sweep.
    fn rebuild(&mut self, size: usize, least: u32) {
        let old = std::mem::replace(&mut self.contexts, vec![Context::default(); size]);
        let store = std::mem::take(&mut self.store);
        self.taken = 0;
        for context in old {
            let (total, successors) = match context.types {
                0 => continue,
                1 => (count_of(context.link), None),
                types => {
                    let (total, successors) = store.block(context.link, usize::from(types));
                    (total, Some(successors))
                }
            };
            if least == 0 || total >= least && context.recent {
                let at = self.enter(context.key);
                let link = successors.map_or(context.link, |successors| self.store.insert(successors));
                self.contexts[at] = Context { link, ..context };
            }
        }
    }

    /// Finds the contexts of the next token.
    fn locate(&mut self) {
        self.hashes = hashes_after(&self.recent, self.lengths);
        for n in 0..self.lengths.len() {
            self.places[n] = self.place(self.hashes[n]).ok();
        }
    }

    /// Has the processor fetch what will be looked for after the tokens that come next, of which any number
    /// may be known: their contexts' places two tokens ahead, and one token ahead what lies in store for them.
    /// Tables of many megabytes are seldom in its caches. `near`: what the call one token ago returned, the
    /// hashes of what is one token ahead now.
    pub fn prefetch(&self, coming: &[u16], near: Option<Hashes>) -> Option<Hashes> {
        for hash in near.iter().flat_map(|hashes| &hashes[..self.lengths.len()]) {
            let place = self.first_place(*hash);
            if place.key == *hash && place.types > 1 {
                memory::prefetch(&self.store.words[place.link as usize]);
            }
        }
        let mut recent = self.recent;
        recent.copy_within(0..MAX_LENGTH - 3, 3);
        recent[..3].copy_from_slice(coming.get(..3)?);
        recent[..3].reverse();
        let far = hashes_after(&recent, self.lengths);
        far[..self.lengths.len()].iter().for_each(|&hash| memory::prefetch(self.first_place(hash)));
        Some(far)
    }

    /// Where the search for a context with this key begins.
    fn first_place(&self, key: u64) -> &Context {
        &self.contexts[key as usize & (self.contexts.len() - 1)]
    }

    /// Where the context with this key is, or the free place where it would go.
    fn place(&self, key: u64) -> std::result::Result<usize, usize> {
        let mask = self.contexts.len() - 1;
        let mut at = key as usize & mask;
        loop {
            match self.contexts[at].key {
                found if found == key => return Ok(at),
                0 => return Err(at),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Enters a context that isn't there yet.
    fn enter(&mut self, key: u64) -> usize {
        let (Ok(at) | Err(at)) = self.place(key);
        self.contexts[at].key = key;
        self.taken += 1;
        at
    }
}

impl Stateful for Backoff {
    fn add_state(&self, to: &mut Fingerprint) {
        // Where they lie follows from their keys, their order and the size of the table.
        let taken = || self.contexts.iter().filter(|context| context.key != 0);
        to.add([self.contexts.len(), self.taken]);
        to.add(taken().map(|context| context.key));
        to.add(taken().map(|context| context.link));
        to.add(taken().map(|context| context.types));
        to.add(taken().map(|context| u8::from(context.recent)));
        to.add_slice(&self.store.words);
        self.store.free.iter().for_each(|blocks| to.add(blocks));
        to.add(&self.unigrams);
        to.add([self.unigram_total]);
        to.add(self.trusts.iter().flat_map(|trust| [trust.factor, trust.seen]));
        to.add(self.recent);
        to.add(self.hashes);
        to.add(self.places.map(|place| place.unwrap_or(usize::MAX)));
    }
}
