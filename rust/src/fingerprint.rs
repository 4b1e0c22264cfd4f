//! A fingerprint of a component's whole state, by which an audit sees that nothing has changed it.
//!
//! Whatever can change a later prediction goes in, and no more need to: two states with the same fingerprint
//! go on to give the same probabilities for the same tokens. It is a BLAKE3 hash, of no use beyond one
//! process: it is not a format.

/// Bytes that are gathered before they are hashed.
const BUFFER: usize = 1 << 12;

/// The state of something that learns.
pub trait Stateful {
    /// Adds all of it.
    fn add_state(&self, to: &mut Fingerprint);

    fn fingerprint(&self) -> [u8; 32] {
        let mut fingerprint = Fingerprint::default();
        self.add_state(&mut fingerprint);
        fingerprint.finish()
    }
}

#[derive(Default)]
pub struct Fingerprint {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl Fingerprint {
    /// Numbers, and how many there were.
    pub fn add<T: Number>(&mut self, numbers: impl IntoIterator<Item = T>) {
        let mut count = 0u64;
        for number in numbers {
            number.append(&mut self.buffer);
            count += 1;
            if self.buffer.len() >= BUFFER {
                self.flush();
            }
        }
        count.append(&mut self.buffer);
    }

    /// The same of many numbers, at the speed of memory.
    pub fn add_slice<T: Plain>(&mut self, numbers: &[T]) {
        self.flush();
        // SAFETY: all bytes of a `Plain` number are initialised, and every byte is a valid u8.
        let bytes =
            unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast::<u8>(), size_of_val(numbers)) };
        self.hasher.update(bytes);
        (numbers.len() as u64).append(&mut self.buffer);
    }

    fn flush(&mut self) {
        self.hasher.update(&self.buffer);
        self.buffer.clear();
    }

    fn finish(mut self) -> [u8; 32] {
        self.flush();
        *self.hasher.finalize().as_bytes()
    }
}

/// A number by its bits.
pub trait Number: Copy {
    fn append(self, to: &mut Vec<u8>);
}

/// A number that is nothing but its bits.
///
/// # Safety
///
/// The type must have no padding.
pub unsafe trait Plain: Copy {}

macro_rules! number {
    ($($type:ty)*) => {$(
        // SAFETY: a primitive number has no padding.
        unsafe impl Plain for $type {}

        impl Number for $type {
            fn append(self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

number!(u8 u16 u32 u64 usize f32 f64);

impl<T: Number> Number for &T {
    fn append(self, to: &mut Vec<u8>) {
        (*self).append(to);
    }
}
