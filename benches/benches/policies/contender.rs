//! What is measured: calls, made by one thread after the other or by two at
//! once.

use std::{
    hint::black_box,
    ops::{AddAssign, Sub},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use orchestrator_benches::{
    cpu,
    policies::{Ask, Echo, call},
};
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};
use tower::Service;

/// Makes so many calls and says how long they took.
pub(crate) type Worker = Box<dyn FnMut(u64) -> Elapsed>;

/// The time of a thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Elapsed {
    /// While it ran.
    pub(crate) cpu: Duration,
    /// While anything ran.
    pub(crate) wall: Duration,
}

impl AddAssign for Elapsed {
    fn add_assign(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.wall += other.wall;
    }
}

/// A reading of this thread's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    cpu: Duration,
    pub(crate) wall: Instant,
}

impl Moment {
    pub(crate) fn now() -> Self {
        // In this order on both sides, so that no wall time is more than the
        // processor time next to it by the cost of the reading alone.
        let cpu = cpu::thread();
        let wall = Instant::now();
        Self { cpu, wall }
    }
}

impl Sub for Moment {
    type Output = Elapsed;

    fn sub(self, earlier: Self) -> Elapsed {
        Elapsed {
            cpu: self.cpu - earlier.cpu,
            wall: self.wall - earlier.wall,
        }
    }
}

/// Something to call, by every thread that wants to.
pub(crate) struct Contender {
    make: Box<dyn Fn() -> Worker + Send + Sync>,
    /// Whether its workers share what they call.
    pub(crate) shared: bool,
}

impl Contender {
    /// Workers that share whatever `make` put into them.
    pub(crate) fn new(make: impl Fn() -> Worker + Send + Sync + 'static) -> Self {
        let make = Box::new(make);
        Self { make, shared: true }
    }

    /// Workers with a clone of `service` each. Calls that end otherwise than
    /// `answered` says are no measurement, and panic.
    pub(crate) fn of<S>(service: S, answered: bool) -> Self
    where
        S: Service<Ask> + Clone + Send + 'static,
    {
        // A boxed future inside may keep the service from being `Sync`.
        let service = Mutex::new(service);
        Self::new(move || {
            let service = service.lock().unwrap_or_else(PoisonError::into_inner);
            let mut service = service.clone();
            calling(
                async move |ask| call(&mut service, ask).await.is_ok(),
                answered,
            )
        })
    }

    /// A worker for the calling thread.
    pub(crate) fn worker(&self) -> Worker {
        (self.make)()
    }
}

/// One way to make a call, around a service that answers at once and around
/// one that gives way first.
pub(crate) struct Pair {
    pub(crate) name: &'static str,
    pub(crate) at_once: Contender,
    /// None for those who do not get as far as the service.
    pub(crate) later: Option<Contender>,
}

impl Pair {
    /// Two contenders out of what `wrap` puts around a service.
    pub(crate) fn new(name: &'static str, wrap: impl Fn(Echo) -> Contender) -> Self {
        let [at_once, later] = [false, true].map(|gives_way| wrap(Echo { gives_way }));
        Self {
            name,
            at_once,
            later: Some(later),
        }
    }

    /// One contender, around a service that is never called.
    pub(crate) fn refused(name: &'static str, wrap: impl Fn(Echo) -> Contender) -> Self {
        let at_once = wrap(Echo { gives_way: false });
        let later = None;
        Self {
            name,
            at_once,
            later,
        }
    }
}

/// Awaits `call` again and again, on a runtime of the thread's own.
pub(crate) fn calling(call: impl AsyncFnMut(Ask) -> bool + 'static, answered: bool) -> Worker {
    calling_on(runtime(), call, answered)
}

/// As [`calling`], for calls that need `runtime` before they are made.
pub(crate) fn calling_on(
    runtime: Runtime,
    mut call: impl AsyncFnMut(Ask) -> bool + 'static,
    answered: bool,
) -> Worker {
    Box::new(move |calls| {
        let calling = async {
            let mut as_expected = 0;
            let before = Moment::now();
            for value in 0..calls {
                let answer = call(black_box(Ask::new(value))).await;
                as_expected += u64::from(black_box(answer) == answered);
            }
            let elapsed = Moment::now() - before;
            assert_eq!(as_expected, calls, "not what was to be measured");
            elapsed
        };
        // The cooperative budget would add a turn through the scheduler now and then.
        runtime.block_on(tokio::task::unconstrained(calling))
    })
}

/// A runtime of this thread, with timers.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without drivers for sockets needs nothing from the system")
}
