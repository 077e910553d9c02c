//! The agent that keeps a node's containers running. The desired state is on disk, the running
//! containers are in containerd, and the agent takes the steps between, for ever.
//!
//! ```text
//! CHaS <-- poll, report -- chas --+
//!                                 v
//! HTTP <------------------ api -> node --> writer --> state::store
//!                                 ^   |
//!                                 |   +--- wake --> reconcile -- step --> runtime --> containerd
//!                                 |                 |       ^             |     |
//!                   view <----- board <-------------+       +--- look ----+     +--> network, logs
//! ```
//!
//! `writer` and `reconcile` tell the journal their events: log line, counter, feed.
//!
//! # Rules: the crate `state`
//!
//! It knows no containerd, no HTTP, no executor and no clock. All of it is pure, but for the store.
//!
//! - [`state::spec`]: what was asked for one container; a file for each section of a deploy body.
//! - [`state::desired`]: the records and marks as they are stored. No rules.
//! - [`state::ownership`]: whether a push or CHaS may make a change, and who wins. No files.
//! - [`state::guard`]: whether a set ends or changes too much without a confirmation.
//! - [`state::assign`]: address and host ports of a container; asks the network what is free.
//! - [`state::phase`]: the one verdict from record, look and history. It knows no time.
//! - [`state::order`]: whom a container waits for at its first start; [`state::surroundings`]: all that
//!   stands outside of a container and holds it back.
//! - [`state::plan`]: the next step for that verdict, and the plan a person reads: one function.
//! - [`state::status`]: the word, reason and next attempt that people see.
//! - [`state::history`]: exits, failures and the backoff of a container. Time is an argument.
//! - [`state::chronicle`]: what changed from one generation to the next, how each went, and which is
//!   gone back to.
//! - [`state::event`], [`state::failure`], [`state::reason`]: facts, failed steps, their codes.
//! - [`state::alarm`]: states of the node in which something does not work, with their remedies.
//! - [`state::store`]: writes the desired state to disk, each change in one transaction.
//!
//! # Rooms of the agent, from the ground up
//!
//! A room uses only rooms that come before it here. `tests/it/house_rules.rs` holds that.
//!
//! - [`backoff`] (waits), [`cause`] (the innermost error), `cgroup` (control groups), `lock`, `mountinfo` (the list of mounts),
//!   `mounts` (the host's), `permits` (turns by key), `within` (paths below a root), [`lookup`] (names
//!   to addresses),
//!   [`monitor`] (the machine's load), [`notify`] (systemd), [`shutdown`] and [`signals`]: know
//!   nobody.
//! - [`log_level`]: the level of the agent's own log, as configured or another for a while.
//! - [`config`]: flags, environment, file. The only room that reads the environment.
//! - [`metrics`]: counters. Of the things that it counts it knows the machine alone.
//! - `otlp`: traces and metrics for a collector, behind the feature of that name. Without it, it is
//!   empty.
//! - [`feed`]: the last events, numbered and rendered, for those who read them, also over a restart.
//! - [`journal`]: takes each event once; logs it, counts it and hands it to the feed; keeps the alarms
//!   that stand. It acts on none.
//! - [`audit`]: a chained line for each change, before it is stored. It knows what was asked, and by
//!   whom, and no value of it.
//! - [`logs`]: the logger of a container, and the reader of its files. It knows no containerd.
//! - `archive`: tar streams of directories, in both directions. It knows no containerd and no HTTP.
//! - `volumes`: directories of the node that containers mount, and their first content. It knows no
//!   containerd; what an image has comes to it as an open directory.
//! - `host_paths`: files and directories of the host that containers mount, opened below what the node
//!   gives, and held for a launch. It knows no containerd.
//! - `secrets`: the node's key, and the file system in memory by which containers get their secret
//!   values. It knows no containerd.
//! - [`exec`]: programs that are run in containers beside their first process: places, streams, and
//!   the end, after which nothing of them is left. It knows no containerd.
//! - `devices`: devices of the host that containers are given, also by CDI files. It knows no
//!   containerd.
//! - [`network`]: the trait [`network::NetworkDriver`], and [`network::bridge`], its first driver.
//!   It knows no containerd, and what it assigned only the store remembers.
//! - [`registry`]: manifests and blobs over HTTP. It stores nothing and knows no runtime.
//! - [`oci`]: the OCI spec of a container, pure. It knows no containerd.
//! - [`runtime`]: the trait [`runtime::Runtime`], which is all that the reconciler sees.
//!   `runtime::node` puts network and logs beside an `engine`. [`runtime::containerd`] is that
//!   engine, in layers each of which looks only down: `rpc` (a file for each service; alone names
//!   tonic), `image` and `shim`, `instance`. None of it decides that a container should run.
//! - [`writer`]: the only way to the store for async code. It does not know what a change means.
//! - [`reconcile`]: [`reconcile::queue`] says *when*, `turn` looks, decides and acts, `board` shows
//!   all that is known, `liveness` says whether turns advance. It never learns why it was woken.
//! - [`probe`]: asks the containers that run whether they work, and puts the answers on the board. It
//!   stops and starts nothing.
//! - [`view`]: the read model, plain data. The others render it.
//! - [`api`]: the HTTP interface, behind [`api::NodeApi`]. [`api::error`] alone makes a failure a
//!   status code. It cannot start a container: it changes what is desired.
//! - [`chas`]: the link to CHaS, behind [`chas::LinkNode`]. It cannot start a container either,
//!   and no container waits for it.
//! - `node`: answers both, from the store, the board and the journal. It reaches no runtime, but
//!   for [`exec`], signals and images.
//! - [`client`]: an operator's orders over the API, and their answers as people read them. It knows nothing of
//!   the agent but its API.
//! - [`cli`], [`telemetry`]: command line, the agent's log.
//! - `hostile`: inputs of others and the parsers that meet them first, for fuzzing alone.
//! - [`agent`]: the only wiring. It builds the rooms, starts them, and stops them in order; no
//!   container is stopped when the agent is. Only `main` ends the process.
//! - [`doctor`]: looks at the node by the rooms' own looks, beside an agent or in place of one. It starts
//!   none of them, and changes nothing.
//! - [`uninstall`]: ends the agent and has its own runtime remove all that it made.
//!
//! # One deploy, from push to running
//!
//! 1. `api` reads the body; [`state::spec::parse`] checks it, and tells every fault at once.
//! 2. `node` hands the change to `writer`, [`state::store`] to `ownership` and `assign`; the
//!    record is synced to disk. Inside of that write the container is woken; then the caller hears.
//! 3. `queue` gives the container a turn. The turn looks ([`runtime::Runtime::observe`]) and notes
//!    the look in the history; [`state::plan::decide`] makes a phase of them, and a step of that.
//! 4. The turn does the step (`pull`: registry, content, snapshots; `launch`: network, container,
//!    task), tells the journal and the board, and looks again, until it is settled or has to wait.
//!
//! So the order is: persist, publish, act, answer. Every step may be repeated, and a look sees
//! every state that a crash can leave: there is no recovery, only another look. No decision uses
//! the wall clock: [`reconcile::Clock`] is `CLOCK_BOOTTIME`, and tests stop it.
//!
//! The desired state is written three times: in sled, in two checksummed files beside it, and in
//! the labels of the containers. A start gives up only what is damaged: while a copy that may be
//! newer cannot be opened, the state is unknown, and nothing is touched. While records may be
//! missing ([`state::desired::set::Adoption`]) nothing counts as unwanted.
//!
//! # Where to add a thing
//!
//! - A field of a body: its section in `state/src/spec`, both halves of `spec/body.rs`, a default
//!   that is left out of the stored form, and a golden file in `state/tests/formats`.
//! - A live part of a spec: sorted in `state/src/spec/live.rs`; a limit also in `oci/limits.rs`.
//! - A step: [`state::plan::Step`] (and a [`state::phase::Stage`] that leads to it), its effect in
//!   `plan/ahead.rs`, its execution in `reconcile/execute.rs` by a call of [`runtime::Runtime`].
//! - A reason: `state/src/reason.rs`, `contrib/docs/troubleshooting.md`, a test in `tests/real/reasons`.
//! - An alarm, for every state in which the node looks well and is not: a row in
//!   `state/src/alarm.rs`, and [`journal::Journal::set_alarm`] after each look at it.
//! - A check of `doctor`: a row in `doctor/check.rs`, its facts and judgement in the file of its group, and
//!   a row in `contrib/docs/doctor.md`.
//! - A route: a row in `api/rights.rs`, its operation in `api/operations.rs` and the bodies of its answers in
//!   `api/openapi/answers.txt`, a handler below `api`, a call of [`api::NodeApi`] that `node` answers with a type of [`view`].
//! - An event: [`state::event::EventKind`], its line in `journal/line.rs`, its count in `count.rs`.
//! - A network driver: a room below `network` with [`network::NetworkDriver`], chosen in [`agent`].
//!   An engine: a room below `runtime` with [`runtime::engine::Engine`]. An OCI runtime:
//!   [`runtime::containerd::OciRuntime`].
//! - A configuration key: the table in `config/keys.rs`, which makes parser, help and check, and a row in
//!   `contrib/docs/configuration.md`.
//!
//! # Words: one word, one thing
//!
//! - **desired** ([`state::desired::set::Desired`]): everything that the node was asked to run.
//! - **spec** ([`state::spec::Spec`]): what was asked for one container, without its name.
//! - **record** ([`state::desired::Record`]): the store's entry of one container.
//! - **unreadable record**: one of another version; its container runs on and cannot be changed.
//! - **mark** ([`state::desired::marks::Mark`]): a stored fact that is no record.
//! - **managed**: a container with the agent's labels. **Unmanaged**: one without, never touched.
//! - **owner** ([`state::desired::Owner`]): push or CHaS, whoever may change the container.
//! - **generation**: the count of accepted changes of one spec. CHaS counts its sets so too.
//! - **revision**: the caller's own number for a spec. **seq**: the store's counter of changes.
//! - **instance** ([`state::id::InstanceName`]): a generation in containerd, `<id>-<generation>`; it
//!   **carries** a later one where only **live** parts have changed, and is **adjusted** to that.
//! - **container**, **task**, **snapshot**: containerd's entry, running process and file system.
//! - **reference**, **digest**: the name of an image as written, and the hash of its content.
//! - **pull**: to fetch an image; nothing else is pulled.
//! - **tag check** ([`state::desired::tag_check::TagCheck`]): the question to a registry what a tag
//!   stands for now, and its answer.
//! - **seen** ([`state::observed::Seen`]): what one look found of a container.
//! - **history** ([`state::history::History`]): exits, failed attempts and backoff of a container.
//! - **chronicle** ([`state::desired::chronicle::Chapter`]): the last generations of a container, a
//!   **chapter** for each. Callers know it as its history.
//! - **backoff** ([`state::history::Backoff`]): the wait in force, with its cause and `retry_at`.
//! - **goal**, **stage**, **phase** ([`state::phase::Phase`]): where to, how far, the verdict.
//! - **step** ([`state::plan::Step`]): one thing to do. **Plan**: the steps ahead.
//! - **turn**: the steps of one container, one after the other. **Resync**: a look at everything.
//! - **settled**: nothing to do for a container. **Converged**: for the node.
//! - **status**, **condition** ([`state::status::Condition`]): one word; the word with its reason.
//! - **reason** ([`state::reason::Reason`]): a code of a closed set, with meaning and remedy.
//! - **failure** ([`state::failure::Failure`]): reason and message of a failed step.
//! - **event** ([`state::event::Event`]): one fact of a closed set.
//! - **alarm** ([`state::alarm::Alarm`]): a state of the node in which something does not work.
//! - **set** ([`state::ownership::ChasSet`]): the containers that CHaS lists for the node.
//! - **poll**: to ask CHaS for the set. **Wait**: how long CHaS may keep the poll open.
//! - **apply**: to take a set in; [`state::desired::applied::AppliedSet`] is the last one.
//! - **epoch**: one life of CHaS's database; generations of two epochs cannot be compared.
//! - **unconfirmed** ([`state::desired::applied::Unconfirmed`]): of a set, what the guard
//!   lets wait for a confirmation.
//! - **conflict**: push and CHaS differ about a name. **Rejected**: an entry that is not applied.
//! - **suppressed**: stopped or deleted by an operator, until a newer set lists it.
//! - **tombstone**: the mark of a pushed container that was deleted, until CHaS knows of it.
//! - **cordon**: CHaS's order to start nothing new, or an operator's; **drain**: his to stop what runs,
//!   too. **Link**: the node's connection to CHaS.
//! - **register**, **report**: to tell CHaS that the node exists, and how it is.
//! - **assignment** ([`state::desired::Assignment`]): address and host ports of a container.
//! - **netns**: a network namespace of the kernel; **namespace** alone is containerd's.
//! - **lease**: containerd's; keeps what a pull fetched from its garbage collector.
//! - **leftover**: a thing in the runtime without a record; a **sweep** removes it.
//! - **orphan**: an instance without a container. **Forget**: to drop a record, the last step.
//! - **adoption**: taking in records from labels, after the store was rebuilt.
//! - **last change**: the note of which change was answered last; it shows that a copy is old.
//! - **unknown**: the state while its newest copy cannot be opened. **Uncertain**: a container
//!   that lost changes may be about. **Reserve**: disk kept for stops and removals.
//! - **quarantine**: the place of damaged files. **Logger**: the process that writes a log.
//! - **door**: a place where the API listens: TCP, or the socket, which is root's own. **Guess**: a
//!   wrong token.
//! - **exec** ([`exec::ExecOrder`]): a program run in a container beside its first process;
//!   **session** ([`exec::ExecSession`]): such a program with its streams, for as long as it runs.
//! - **grace**: the time between asking to stop and SIGKILL. **Deadline**: a point in time.

#![allow(
    rustdoc::private_intra_doc_links,
    reason = "the map names every room, for readers of the source"
)]
#![cfg_attr(
    test,
    allow(
        clippy::too_many_lines,
        reason = "a row of a table stands over several lines"
    )
)]

pub mod agent;
pub(crate) mod api;
pub(crate) mod archive;
pub mod audit;
pub(crate) mod backoff;
pub(crate) mod cause;
mod cgroup;
pub mod chas;
pub mod cli;
pub mod client;
pub mod config;
mod devices;
pub mod doctor;
pub(crate) mod exec;
pub mod feed;
mod host_paths;
#[cfg(any(test, fuzzing))]
pub mod hostile;
pub mod journal;
mod lock;
pub mod log_level;
pub mod logs;
pub(crate) mod lookup;
pub mod metrics;
pub(crate) mod monitor;
mod mountinfo;
mod mounts;
pub mod network;
mod node;
pub(crate) mod notify;
pub(crate) mod oci;
mod otlp;
pub(crate) mod permits;
pub mod probe;
pub mod reconcile;
pub mod registry;
pub mod runtime;
mod secrets;
pub(crate) mod shutdown;
pub(crate) mod signals;
pub mod telemetry;
pub mod uninstall;
pub(crate) mod view;
mod volumes;
mod within;
pub mod writer;
