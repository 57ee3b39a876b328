//! The one tokio runtime of the process, shared by all systems in it and gone with the last.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use hms_core::{Error, Result};

static SHARED: Mutex<Weak<Runtime>> = Mutex::new(Weak::new());

/// A share in the process's runtime.
pub struct Runtime(Option<tokio::runtime::Runtime>);

impl Runtime {
    /// The runtime, started if nobody has it yet.
    ///
    /// Errors: the operating system's when no thread can be started.
    pub fn acquire() -> Result<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = shared.upgrade() {
            return Ok(runtime);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("hms")
            .thread_stack_size(1 << 20)
            .enable_all()
            .build()
            .map_err(|e| Error::io("starting the runtime", &e))?;
        let runtime = Arc::new(Self(Some(runtime)));
        *shared = Arc::downgrade(&runtime);
        Ok(runtime)
    }

    /// Its handle.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        self.inner().handle()
    }

    /// Runs a future on the calling thread until it is done. Not from a thread of the runtime itself.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.inner().block_on(future)
    }

    fn inner(&self) -> &tokio::runtime::Runtime {
        self.0.as_ref().expect("it is taken only by drop")
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Not blocking: the last share may be dropped by one of its own threads.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
