//! Time and chance, injected: the kernel and its organs never ask the operating system directly, so
//! that supervision, healing and evolution replay in tests without sleeping.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::oneshot;

/// A monotonic point in time: the duration since an arbitrary, fixed origin of its clock.
pub type Mono = Duration;

/// A source of time. Monotonic for intervals, wall for what people and history read.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic now. Never goes back.
    fn now(&self) -> Mono;
    /// Wall-clock now, in milliseconds since the Unix epoch.
    fn wall_ms(&self) -> u64;
    /// Completes when `now() >= deadline`.
    fn sleep_until(&self, deadline: Mono) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's time.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self { origin: Instant::now() })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Mono {
        self.origin.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
    }

    fn sleep_until(&self, deadline: Mono) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let at = self.origin + deadline;
        Box::pin(tokio::time::sleep_until(at.into()))
    }
}

/// A clock that moves only when a test says so.
#[derive(Debug, Default)]
pub struct ManualClock {
    state: Mutex<ManualState>,
}

#[derive(Debug, Default)]
struct ManualState {
    now: Mono,
    sleepers: BTreeMap<(Mono, u64), oneshot::Sender<()>>,
    next: u64,
}

impl ManualClock {
    /// A clock at zero.
    #[must_use]
    pub fn shared() -> Arc<Self> {
        Arc::default()
    }

    /// Moves time on and wakes who slept until then.
    pub fn advance(&self, by: Duration) {
        let due: Vec<_> = {
            let mut state = self.lock();
            state.now += by;
            let after = (state.now + Duration::from_nanos(1), 0);
            let later = state.sleepers.split_off(&after);
            std::mem::replace(&mut state.sleepers, later).into_values().collect()
        };
        for waker in due {
            let _ = waker.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, ManualState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Mono {
        self.lock().now
    }

    fn wall_ms(&self) -> u64 {
        self.lock().now.as_millis() as u64
    }

    fn sleep_until(&self, deadline: Mono) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut state = self.lock();
        if deadline <= state.now {
            return Box::pin(std::future::ready(()));
        }
        let (tx, rx) = oneshot::channel();
        let key = (deadline, state.next);
        state.next += 1;
        state.sleepers.insert(key, tx);
        Box::pin(async move {
            let _ = rx.await;
        })
    }
}

/// A small, fast, seedable generator (SplitMix64: Steele, Lea, Flood, OOPSLA 2014). Not for secrets.
#[derive(Debug)]
pub struct Rng {
    state: Mutex<u64>,
}

impl Rng {
    /// The generator that `seed` determines.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { state: Mutex::new(seed) }
    }

    /// A generator seeded by the operating system.
    #[must_use]
    pub fn from_os() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self::seeded(RandomState::new().hash_one(std::process::id()))
    }

    /// The next 64 bits.
    pub fn next_u64(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `len` characters of lower-case base 32 without look-alikes.
    pub fn token(&self, len: usize) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
        (0..len).map(|_| ALPHABET[(self.next_u64() >> 59) as usize] as char).collect()
    }
}
