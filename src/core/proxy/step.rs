//! What a session wishes to be done with its sockets.

use crate::proxy::side::Side;

/// A wish. Each is given out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Pass an end of file on to this side.
    Shutdown(Side),
    /// The upstream's connection may serve others.
    Release,
    /// Close this side's connection.
    Close(Side),
    /// Close this side's connection with a reset.
    Abort(Side),
    /// Find a connection to an upstream: see [`Session::wanted`](crate::proxy::session::Session::wanted).
    Connect,
}

/// Steps that wait to be carried out, in the order of their bits: an upstream is let go before another is asked for, and the
/// client's connection goes last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps(u8);

const ORDER: [Step; 8] = [
    Step::Shutdown(Side::Upstream),
    Step::Release,
    Step::Close(Side::Upstream),
    Step::Abort(Side::Upstream),
    Step::Connect,
    Step::Shutdown(Side::Client),
    Step::Close(Side::Client),
    Step::Abort(Side::Client),
];

impl Steps {
    /// Adds a step; one that waits already stays one. Who is closed need not be told of an end before.
    pub fn add(&mut self, step: Step) {
        if let Step::Close(side) = step {
            self.0 &= !bit_of(Step::Shutdown(side));
        }
        self.0 |= bit_of(step);
    }

    /// Whether none waits.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first step, which is no longer there then.
    pub fn take(&mut self) -> Option<Step> {
        if self.is_empty() {
            return None;
        }
        let step = ORDER.get(self.0.trailing_zeros() as usize).copied();
        self.0 &= self.0.wrapping_sub(1);
        step
    }
}

fn bit_of(step: Step) -> u8 {
    ORDER.iter().enumerate().map(|(bit, known)| u8::from(*known == step) << bit).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_their_order_and_once() {
        let mut steps = Steps::default();
        for step in [Step::Abort(Side::Client), Step::Connect, Step::Release, Step::Connect] {
            steps.add(step);
        }
        let taken: Vec<_> = std::iter::from_fn(|| steps.take()).collect();
        assert_eq!(taken, [Step::Release, Step::Connect, Step::Abort(Side::Client)]);
    }

    #[test]
    fn who_is_closed_is_not_shut_down_before() {
        let mut steps = Steps::default();
        for step in [Step::Shutdown(Side::Client), Step::Shutdown(Side::Upstream), Step::Close(Side::Client)] {
            steps.add(step);
        }
        let taken: Vec<_> = std::iter::from_fn(|| steps.take()).collect();
        assert_eq!(taken, [Step::Shutdown(Side::Upstream), Step::Close(Side::Client)]);
    }
}
