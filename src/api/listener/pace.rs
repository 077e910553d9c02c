//! The pace of one connection: what it waits for, and until when.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock::lock;

/// Time for the head of a request: a client that has one sends it at once.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Time for the body of a request, which is 1 MiB at most.
pub(in crate::api) const BODY_MAX: Duration = Duration::from_secs(30);
/// Time beyond [`BODY_MAX`], in which the client is told that it is over.
const BODY_REST: Duration = Duration::from_secs(5);
/// Time in which a client sends [`STREAM_BYTES`] of a stream; only that counts in which it is waited
/// for.
const STREAM_MAX: Duration = Duration::from_secs(30);
/// Bytes of a stream that come in that time, at least.
const STREAM_BYTES: usize = 64 << 10;
/// Rest between two requests of a connection.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Part of a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestPart {
    /// The client sends the head of a request, or should.
    Head,
    /// The client sends the body of a request.
    Body,
    /// The client sends a body of any size, at the least pace or faster.
    Stream,
    /// The agent answers.
    Answer,
    /// The client rests between two requests.
    Idle,
}

#[derive(Debug)]
struct Progress {
    part: RequestPart,
    since: Instant,
    /// The time since which the client takes nothing of the answer. `None`: it does.
    blocked: Option<Instant>,
    /// The part that comes once what was answered is also sent. `None`: it is not all answered.
    after: Option<RequestPart>,
    /// The time at which the client began to be waited for. `None`: the agent has something to do.
    awaited: Option<Instant>,
    /// The time that it was waited for, and the bytes that came, since it had sent enough.
    used: Duration,
    bytes: usize,
}

/// The pace of one connection, noted by those who see a part of it.
#[derive(Debug)]
pub(crate) struct Pace {
    progress: Mutex<Progress>,
    moved: Notify,
}

impl Pace {
    /// The pace of a new connection, of which the head of a request is awaited.
    pub(super) fn new() -> Self {
        let progress = Progress {
            part: RequestPart::Head,
            since: Instant::now(),
            blocked: None,
            after: None,
            awaited: None,
            used: Duration::ZERO,
            bytes: 0,
        };
        Self {
            progress: Mutex::new(progress),
            moved: Notify::new(),
        }
    }

    fn enter(&self, part: RequestPart) {
        let mut progress = lock(&self.progress);
        (progress.part, progress.since) = (part, Instant::now());
        progress.after = None;
        (progress.awaited, progress.used, progress.bytes) = (None, Duration::ZERO, 0);
        drop(progress);
        self.moved.notify_one();
    }

    /// Notes that the connection is ready for its first request.
    pub(super) fn welcomed(&self) {
        self.enter(RequestPart::Head);
    }

    /// Notes that bytes came.
    pub(super) fn received(&self) {
        let mut progress = lock(&self.progress);
        let is_idle = progress.part == RequestPart::Idle;
        if let Some(after) = &mut progress.after {
            *after = RequestPart::Head;
        }
        drop(progress);
        if is_idle {
            self.enter(RequestPart::Head);
        }
    }

    /// Notes that the head of a request came.
    pub(super) fn request_began(&self, has_body: bool) {
        self.enter(if has_body {
            RequestPart::Body
        } else {
            RequestPart::Answer
        });
    }

    /// Notes that the body of the request came, or is not awaited any more.
    pub(super) fn body_ended(&self) {
        let part = lock(&self.progress).part;
        if matches!(part, RequestPart::Body | RequestPart::Stream) {
            self.enter(RequestPart::Answer);
        }
    }

    /// Notes that the body under way is one of any size.
    pub(in crate::api) fn is_stream(&self) {
        if lock(&self.progress).part == RequestPart::Body {
            self.enter(RequestPart::Stream);
        }
    }

    /// Notes that more of the body is awaited.
    pub(super) fn body_awaited(&self) {
        let mut progress = lock(&self.progress);
        if progress.part == RequestPart::Stream && progress.awaited.is_none() {
            progress.awaited = Some(Instant::now());
            drop(progress);
            self.moved.notify_one();
        }
    }

    /// Notes that so many bytes of the body came.
    pub(super) fn body_came(&self, bytes: usize) {
        let mut progress = lock(&self.progress);
        if let Some(since) = progress.awaited.take() {
            progress.used += since.elapsed();
        }
        progress.bytes = progress.bytes.saturating_add(bytes);
        if progress.bytes >= STREAM_BYTES {
            (progress.used, progress.bytes) = (Duration::ZERO, 0);
        }
    }

    /// Notes that the last of the answer was handed over to be sent. It may be megabytes, which a
    /// client takes in its own time: until then the request is under way.
    pub(super) fn answer_ended(&self) {
        self.enter(RequestPart::Answer);
        lock(&self.progress).after = Some(RequestPart::Idle);
    }

    /// Notes that all that was handed over is sent.
    pub(super) fn flushed(&self) {
        let after = lock(&self.progress).after;
        if let Some(part) = after {
            self.enter(part);
        }
    }

    /// Notes whether the client takes what is sent.
    pub(super) fn blocked(&self, is_blocked: bool) {
        let blocked = &mut lock(&self.progress).blocked;
        if is_blocked {
            blocked.get_or_insert_with(Instant::now);
        } else {
            *blocked = None;
        }
    }

    /// The time since which only the client holds things up. `None`: the agent does.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let progress = lock(&self.progress);
        match progress.part {
            RequestPart::Answer => progress.blocked,
            RequestPart::Stream => progress.awaited,
            RequestPart::Head | RequestPart::Body | RequestPart::Idle => Some(progress.since),
        }
    }

    /// Whether no request is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(
            lock(&self.progress).part,
            RequestPart::Head | RequestPart::Idle
        )
    }

    fn deadline(&self) -> Option<Instant> {
        let progress = lock(&self.progress);
        let most = match progress.part {
            RequestPart::Head => HEAD_MAX,
            RequestPart::Body => BODY_MAX + BODY_REST,
            RequestPart::Idle => IDLE_MAX,
            RequestPart::Stream => {
                return progress
                    .awaited
                    .map(|since| since + STREAM_MAX.saturating_sub(progress.used));
            }
            RequestPart::Answer => return None,
        };
        Some(progress.since + most)
    }

    /// Waits until the client has taken longer than it may.
    pub(super) async fn overdue(&self) {
        loop {
            let moved = self.moved.notified();
            match self.deadline() {
                None => moved.await,
                Some(deadline) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(deadline) => {
                            if self.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                                return;
                            }
                        }
                        () = moved => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds after which a connection is overdue; `None`: not within an hour.
    async fn overdue_after(pace: &Pace) -> Option<u64> {
        let began = Instant::now();
        let overdue = tokio::time::timeout(Duration::from_hours(1), pace.overdue()).await;
        overdue.ok().map(|()| began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn each_part_of_a_request_has_its_own_time_and_an_answer_has_none() {
        let pace = Pace::new();
        assert_eq!(overdue_after(&pace).await, Some(10));
        pace.request_began(true);
        assert_eq!(overdue_after(&pace).await, Some(35));
        pace.body_ended();
        assert_eq!(overdue_after(&pace).await, None);
        assert_eq!(pace.waiting_since(), None);
        pace.answer_ended();
        pace.flushed();
        assert_eq!(overdue_after(&pace).await, Some(60));
        pace.received();
        assert_eq!(overdue_after(&pace).await, Some(10));
        pace.request_began(false);
        assert_eq!(overdue_after(&pace).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_has_all_the_time_as_long_as_it_comes() {
        let pace = Pace::new();
        pace.request_began(true);
        pace.is_stream();
        assert_eq!(overdue_after(&pace).await, None, "the agent has to do");
        for _ in 0..100 {
            pace.body_awaited();
            assert!(pace.waiting_since().is_some());
            tokio::time::sleep(STREAM_MAX / 2).await;
            pace.body_came(STREAM_BYTES);
        }
        assert_eq!(pace.waiting_since(), None);
        pace.body_awaited();
        tokio::time::sleep(STREAM_MAX / 2).await;
        pace.body_came(1);
        assert_eq!(overdue_after(&pace).await, None, "the agent has to do");
        pace.body_awaited();
        assert_eq!(overdue_after(&pace).await, Some(15), "too few bytes");
        pace.body_ended();
        assert_eq!(overdue_after(&pace).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_under_way_until_all_of_it_is_sent() {
        for (comes_meanwhile, seconds) in [(false, 60), (true, 10)] {
            let pace = Pace::new();
            pace.request_began(false);
            pace.flushed();
            assert!(!pace.is_at_rest(), "nothing is answered yet");
            pace.answer_ended();
            if comes_meanwhile {
                pace.received();
            }
            assert!(!pace.is_at_rest());
            assert_eq!(pace.waiting_since(), None);
            assert_eq!(overdue_after(&pace).await, None);
            pace.flushed();
            assert!(pace.is_at_rest());
            assert_eq!(overdue_after(&pace).await, Some(seconds));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_trickle_do_not_make_a_head_any_longer() {
        let pace = Pace::new();
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                pace.received();
            }
        };
        let overdue = tokio::select! {
            () = trickle => None,
            after = overdue_after(&pace) => after,
        };
        assert_eq!(overdue, Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_of_an_answer_is_who_holds_things_up() {
        let pace = Pace::new();
        pace.request_began(false);
        pace.blocked(true);
        let since = pace.waiting_since();
        tokio::time::sleep(Duration::from_secs(1)).await;
        pace.blocked(true);
        assert!(since.is_some() && pace.waiting_since() == since);
        pace.blocked(false);
        assert_eq!(pace.waiting_since(), None);
    }
}
