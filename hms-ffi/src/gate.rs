//! The door to a program's callbacks: through it every one of them is called, and by it they end.
//!
//! A gate holds what the callbacks are given (`user_data`) and its drop function. Once it is closed nothing
//! enters any more; when the last callback has returned, the drop function runs, once. Who closes it may wait
//! for that. Inside a callback of the same gate there is nothing to wait for: the end comes when it returns. The
//! same holds where two callbacks, each inside its own gate, would wait for each other's.

use std::{
    cell::{Cell, RefCell},
    ffi::c_void,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use hms_core::{Error, ErrorKind};

use crate::{guard::is_forked, hms_drop_cb_t};

/// What a program wants its callbacks to be given, and how it is let go of: dropped, once.
pub(crate) struct UserData {
    pointer: *mut c_void,
    drop: hms_drop_cb_t,
}

// SAFETY: the documentation of every function that takes one says that its callbacks, drop included, run on
// threads of the library.
unsafe impl Send for UserData {}
// SAFETY: the same; only the pointer is read.
unsafe impl Sync for UserData {}

impl UserData {
    /// To be made first of all, so that it is let go of on failure too.
    pub(crate) fn new(pointer: *mut c_void, drop: hms_drop_cb_t) -> Self {
        Self { pointer, drop }
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(drop) = self.drop
            && !is_forked()
        {
            // SAFETY: the caller gave the two together, and this happens once.
            unsafe { drop(self.pointer) }
        }
    }
}

/// What code of the program's a thread is in, called by the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is told of something (an event, a completion): it may not wait for the system.
    Told,
    /// It answers something (an agent, a service, a command): it may.
    Answers,
}

thread_local! {
    static ROLE: Cell<Option<Role>> = const { Cell::new(None) };
    /// The gates that this thread is in, outermost first.
    static INSIDE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// What of the program this thread is in, if it was called by the library.
pub(crate) fn role() -> Option<Role> {
    ROLE.try_with(Cell::get).ok().flatten()
}

/// Fails within any callback: for what would wait for that very callback.
pub(crate) fn refuse_inside() -> Result<(), Error> {
    match role() {
        None => Ok(()),
        Some(_) => {
            Err(Error::new(ErrorKind::WouldDeadlock, "called from a callback, which it would wait for")
                .hint("call it from a thread of your own"))
        }
    }
}

/// The threads that wait for a gate from inside of others.
static WAITING: Mutex<Vec<(Vec<u64>, u64)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the file.
pub(crate) struct Gate {
    id: u64,
    state: Mutex<State>,
    gone: Condvar,
}

struct State {
    /// Taken when it is over.
    user: Option<UserData>,
    /// Callbacks that run, and what else keeps it (instances of agents).
    held: usize,
    closed: bool,
    gone: bool,
}

impl Gate {
    pub(crate) fn new(user: UserData) -> Arc<Self> {
        let state = State { user: Some(user), held: 0, closed: false, gone: false };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { id, state: Mutex::new(state), gone: Condvar::new() })
    }

    /// A callback is about to run on this thread; `None` when none may any more.
    pub(crate) fn enter(self: &Arc<Self>, role: Role) -> Option<Entered> {
        let hold = self.hold()?;
        let outer = ROLE.with(|r| r.replace(Some(role)));
        INSIDE.with(|inside| inside.borrow_mut().push(self.id));
        Some(Entered { _inside: Inside { outer }, hold })
    }

    /// Keeps the user data alive beyond a single callback; `None` when it is over.
    pub(crate) fn hold(self: &Arc<Self>) -> Option<Hold> {
        let mut state = lock(&self.state);
        let pointer = state.user.as_ref().filter(|_| !state.closed)?.pointer;
        state.held += 1;
        Some(Hold { gate: self.clone(), pointer })
    }

    /// Lets nothing in any more.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        self.end(state);
    }

    /// Lets go of the user data, if it is time.
    fn end(&self, mut state: MutexGuard<'_, State>) {
        if !state.closed || state.held > 0 {
            return;
        }
        let Some(user) = state.user.take() else { return };
        drop(state);
        drop(user);
        lock(&self.state).gone = true;
        self.gone.notify_all();
    }

    /// Waits until the user data has been let go of; not where that would be for ever (see the file).
    pub(crate) fn wait(&self) {
        let inside = INSIDE.try_with(|inside| inside.borrow().clone()).unwrap_or_default();
        if !inside.is_empty() {
            let mut waiting = lock(&WAITING);
            if leads_to(&waiting, self.id, &inside) {
                return;
            }
            waiting.push((inside.clone(), self.id));
        }
        let mut state = lock(&self.state);
        while !state.gone {
            state = self.gone.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        if !inside.is_empty() {
            let mut waiting = lock(&WAITING);
            if let Some(at) = waiting.iter().position(|(from, to)| *from == inside && *to == self.id) {
                waiting.swap_remove(at);
            }
        }
    }
}

/// Whether `gate` waits, over however many others, for one of `inside`, or is one.
fn leads_to(waiting: &[(Vec<u64>, u64)], gate: u64, inside: &[u64]) -> bool {
    let mut reached = vec![gate];
    let mut at = 0;
    while let Some(&gate) = reached.get(at) {
        if inside.contains(&gate) {
            return true;
        }
        at += 1;
        for (from, to) in waiting {
            if from.contains(&gate) && !reached.contains(to) {
                reached.push(*to);
            }
        }
    }
    false
}

/// Keeps the user data.
pub(crate) struct Hold {
    gate: Arc<Gate>,
    pointer: *mut c_void,
}

// SAFETY: as UserData's.
unsafe impl Send for Hold {}
// SAFETY: the same.
unsafe impl Sync for Hold {}

impl Hold {
    fn again(&self) -> Self {
        lock(&self.gate.state).held += 1;
        Self { gate: self.gate.clone(), pointer: self.pointer }
    }

    /// A callback is about to run, also while the gate is closed already: what is held has its end still to come.
    pub(crate) fn enter(&self, role: Role) -> Entered {
        let hold = self.again();
        let outer = ROLE.with(|r| r.replace(Some(role)));
        INSIDE.with(|inside| inside.borrow_mut().push(self.gate.id));
        Entered { _inside: Inside { outer }, hold }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = lock(&self.gate.state);
        state.held -= 1;
        self.gate.end(state);
    }
}

/// A callback runs on this thread. Not sent to another: it is dropped where it was made.
pub(crate) struct Entered {
    // Dropped before the hold: a drop function that runs by it is not inside any more.
    _inside: Inside,
    hold: Hold,
}

impl Entered {
    /// Keeps the user data beyond this callback, also when the gate is closed meanwhile.
    pub(crate) fn hold(&self) -> Hold {
        self.hold.again()
    }

    /// What the callback is given.
    pub(crate) fn user_data(&self) -> *mut c_void {
        self.hold.pointer
    }
}

struct Inside {
    outer: Option<Role>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = ROLE.try_with(|r| r.set(self.outer));
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().pop());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{atomic::AtomicUsize, mpsc},
        thread,
        time::Duration,
    };

    use super::*;

    unsafe extern "C" fn count(pointer: *mut c_void) {
        // SAFETY: every test gives a counter that lives until the end of the program.
        unsafe { &*pointer.cast::<AtomicUsize>() }.fetch_add(1, Ordering::SeqCst);
    }

    fn counted() -> (&'static AtomicUsize, Arc<Gate>) {
        let counter: &'static AtomicUsize = Box::leak(Box::default());
        let pointer = std::ptr::from_ref(counter).cast_mut().cast();
        (counter, Gate::new(UserData::new(pointer, Some(count))))
    }

    fn dropped(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::SeqCst)
    }

    #[test]
    fn the_drop_function_runs_once_after_the_last_callback() {
        let (drops, gate) = counted();
        let entered = gate.enter(Role::Told).unwrap();
        assert_eq!(role(), Some(Role::Told));
        gate.close();
        gate.wait();
        assert_eq!(dropped(drops), 0, "inside there is nothing to wait for, and it is not over");
        assert!(gate.enter(Role::Told).is_none());
        drop(entered);
        assert_eq!((role(), dropped(drops)), (None, 1));
        gate.close();
        gate.wait();
        drop(gate);
        assert_eq!(dropped(drops), 1);
    }

    #[test]
    fn who_closes_from_outside_waits_for_the_callback() {
        let (drops, gate) = counted();
        let (inside, entered) = mpsc::channel();
        let (leave, leaves) = mpsc::channel::<()>();
        let other = gate.clone();
        let callback = thread::spawn(move || {
            let _entered = other.enter(Role::Told).unwrap();
            inside.send(()).unwrap();
            leaves.recv().unwrap();
        });
        entered.recv().unwrap();
        let (closed, closes) = mpsc::channel();
        let closer = thread::spawn(move || {
            gate.close();
            gate.wait();
            closed.send(dropped(drops)).unwrap();
        });
        assert!(closes.recv_timeout(Duration::from_millis(50)).is_err());
        leave.send(()).unwrap();
        assert_eq!(closes.recv_timeout(Duration::from_secs(30)), Ok(1));
        callback.join().unwrap();
        closer.join().unwrap();
    }

    #[test]
    fn two_callbacks_that_end_each_other_do_not_wait_for_ever() {
        let ((a_drops, a), (b_drops, b)) = (counted(), counted());
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let end = |mine: Arc<Gate>, other: Arc<Gate>, barrier: Arc<std::sync::Barrier>| {
            thread::spawn(move || {
                let _entered = mine.enter(Role::Told).unwrap();
                barrier.wait();
                other.close();
                other.wait();
            })
        };
        let threads = [end(a.clone(), b.clone(), barrier.clone()), end(b.clone(), a.clone(), barrier)];
        for thread in threads {
            thread.join().unwrap();
        }
        a.wait();
        b.wait();
        assert_eq!((dropped(a_drops), dropped(b_drops)), (1, 1));
    }

    #[test]
    fn what_is_held_may_still_be_called_after_the_close() {
        let (drops, gate) = counted();
        let hold = gate.hold().unwrap();
        gate.close();
        assert!(gate.hold().is_none());
        drop(hold.enter(Role::Answers));
        assert_eq!(dropped(drops), 0);
        drop(hold);
        assert_eq!(dropped(drops), 1);
    }
}
