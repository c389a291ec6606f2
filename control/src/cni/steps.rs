//! The moments between which a crash must do no harm, so that tests can crash at each.

/// A moment of an operation. What stands before it has happened, what stands after it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// ADD was asked for.
    AddReceived,
    /// The attachment, with its addresses, is on disk.
    Reserved,
    /// The link is made, both ends down.
    LinkMade,
    /// The pod's end is up, with addresses and routes.
    PodReady,
    /// The node's end is up.
    NodeReady,
    /// The port is in the desired state.
    Plugged,
    /// Every worker has the port.
    InForce,
    /// The attachment is on disk as complete; the runtime does not know yet.
    Completed,
    /// DEL was asked for.
    DelReceived,
    /// The link is gone.
    LinkRemoved,
    /// The port is out of the desired state.
    Unplugged,
    /// The attachment is gone from disk; the runtime does not know yet.
    Forgotten,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::AddReceived,
        Self::Reserved,
        Self::LinkMade,
        Self::PodReady,
        Self::NodeReady,
        Self::Plugged,
        Self::InForce,
        Self::Completed,
        Self::DelReceived,
        Self::LinkRemoved,
        Self::Unplugged,
        Self::Forgotten,
    ];
}

/// Somebody who is told of every step.
pub trait Steps: Send + Sync + 'static {
    /// `step` is reached; the operation goes on when this returns.
    fn reached(&self, step: Step);
}

/// Nobody.
impl Steps for () {
    fn reached(&self, _: Step) {}
}
