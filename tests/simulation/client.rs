//! A client that follows its plan, and reads what it is given to the letter.

use std::rc::Rc;
use std::time::Duration;

use crate::ledger::Context;
use crate::message::{Body, Head};
use crate::network::{Connection, End, Moved};
use crate::scenario::{Ends, Id, Kind, Leave, Mishap, Request, Scenario};
use hawkey::proxy::moment::Moment;

/// How long a client waits for a 100 before it sends its body all the same.
const PATIENCE: Duration = Duration::from_millis(500);

pub struct Client {
    number: usize,
    scenario: Rc<Scenario>,
    /// Everything that it will send, and where each request begins in it; then where the tunnel does.
    wire: Vec<u8>,
    starts: Vec<usize>,
    tunnel_start: usize,
    sent: usize,
    read: usize,
    mishap_when_sent: Option<(usize, Mishap)>,
    mishap_when_read: Option<(usize, Mishap)>,
    /// Does nothing until then.
    pub wakes: Option<Moment>,
    /// Does nothing more, until the end of the world.
    pub is_silent: bool,
    /// Sends the body that waits for a 100 from then on.
    patience: Option<Moment>,
    has_continue: bool,
    bytes: Vec<u8>,
    /// Final responses that were read whole.
    answered: usize,
    interims: usize,
    response: Option<Response>,
    /// Bytes of the tunnel that were read, once it is open.
    tunnel: Option<usize>,
    was_told_close: bool,
    has_shut_down: bool,
    has_seen_end: bool,
    is_broken: bool,
    pub is_gone: bool,
}

/// The response that is being read.
struct Response {
    body: Option<Body>,
    content: usize,
    is_ours: bool,
    /// It ends the connection.
    closes: bool,
}

/// What a client can do now.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Mishap(Mishap),
    BeginToWait,
    Read,
    Write,
    ShutDown,
    Reset,
    Close,
}

impl Client {
    pub fn new(number: usize, context: &Context) -> Client {
        let scenario = context.scenario.clone();
        let plan = &scenario.clients[number];
        let (mut wire, mut starts) = (Vec::new(), Vec::new());
        for request in &plan.requests {
            starts.push(wire.len());
            wire.extend_from_slice(&request.wire);
        }
        let tunnel_start = wire.len();
        if let Some(tunnel) = plan.requests.last().and_then(|request| request.tunnel.as_ref()) {
            wire.extend((0..tunnel.up.bytes).map(|place| tunnel.up.at(place)));
        }
        Client {
            number,
            wire,
            starts,
            tunnel_start,
            sent: 0,
            read: 0,
            mishap_when_sent: plan.mishap_when_sent,
            mishap_when_read: plan.mishap_when_read,
            wakes: Some(context.now + plan.starts_after),
            is_silent: false,
            patience: None,
            has_continue: false,
            bytes: Vec::new(),
            answered: 0,
            interims: 0,
            response: None,
            tunnel: None,
            was_told_close: false,
            has_shut_down: false,
            has_seen_end: false,
            is_broken: false,
            is_gone: false,
            scenario,
        }
    }

    fn requests(&self) -> &[Request] {
        &self.scenario.clients[self.number].requests
    }

    fn id(&self) -> Id {
        Id(self.number, self.answered.min(self.requests().len() - 1))
    }

    fn holds_back_body(&self, number: usize, now: Moment) -> bool {
        let is_told = self.answered > number || (self.answered == number && self.has_continue);
        self.requests()[number].expects_continue && !is_told && self.patience.is_none_or(|until| until > now)
    }

    /// How far it may send now.
    fn limit(&self, now: Moment) -> usize {
        let is_over = self.tunnel.is_none() && (self.was_told_close || self.has_seen_end);
        if is_over || self.is_broken || self.has_shut_down {
            return self.sent;
        }
        let mut limit = self.tunnel_start;
        for (number, request) in self.requests().iter().enumerate() {
            if number > self.answered && !request.is_pipelined {
                limit = self.starts[number];
                break;
            }
            if self.holds_back_body(number, now) {
                limit = self.starts[number] + request.head_bytes;
                break;
            }
            if let Some(tunnel) = &request.tunnel
                && (self.tunnel.is_some() || (tunnel.is_early && self.answered <= number))
            {
                limit = self.wire.len();
            }
        }
        let until_mishap = self.mishap_when_sent.map_or(usize::MAX, |(at, _)| at);
        limit.min(until_mishap).max(self.sent)
    }

    fn has_sent_all(&self) -> bool {
        self.sent == self.wire.len()
    }

    fn deeds(&self, connection: &Connection, now: Moment) -> Vec<Deed> {
        let mut deeds = Vec::new();
        if self.is_gone || self.is_silent || self.wakes.is_some_and(|wakes| wakes > now) {
            return deeds;
        }
        if self.is_broken {
            return vec![Deed::Close];
        }
        if let Some((at, mishap)) = self.mishap_when_sent
            && self.sent >= at
        {
            return vec![Deed::Mishap(mishap)];
        }
        if let Some((at, mishap)) = self.mishap_when_read
            && self.read >= at
        {
            return vec![Deed::Mishap(mishap)];
        }
        if connection.can_read(End::Theirs) && !self.has_seen_end {
            deeds.push(Deed::Read);
        }
        if self.limit(now) > self.sent && connection.can_write(End::Theirs) {
            deeds.push(Deed::Write);
        }
        let waiting = self
            .starts
            .iter()
            .zip(self.requests())
            .position(|(start, request)| start + request.head_bytes == self.sent);
        if let Some(number) = waiting
            && self.patience.is_none()
            && self.holds_back_body(number, now)
        {
            deeds.push(Deed::BeginToWait);
        }
        let plan = self.requests().last().and_then(|request| request.tunnel.as_ref()).filter(|_| self.tunnel.is_some());
        if let Some(plan) = plan {
            match plan.client_ends {
                Ends::Reset if self.has_sent_all() => deeds.push(Deed::Reset),
                Ends::WhenSent if self.has_sent_all() && !self.has_shut_down => deeds.push(Deed::ShutDown),
                Ends::Second if self.has_sent_all() && self.has_seen_end && !self.has_shut_down => {
                    deeds.push(Deed::ShutDown)
                }
                _ => {}
            }
        }
        let has_all = self.answered == self.requests().len() && self.tunnel.is_none();
        let ended = match self.tunnel {
            Some(_) => self.has_seen_end && self.has_shut_down,
            None => {
                let stays = self.scenario.clients[self.number].overstays && !self.has_lost_tunnel();
                self.has_seen_end || (has_all && !stays)
            }
        };
        if ended {
            deeds.push(Deed::Close);
        }
        deeds
    }

    pub fn can_act(&self, connection: &Connection, now: Moment) -> bool {
        !self.deeds(connection, now).is_empty()
    }

    /// Whether it is to blame if nothing moves.
    pub fn is_waiting(&self, now: Moment) -> bool {
        self.is_silent || self.is_gone || self.next_wake(now).is_some()
    }

    pub fn next_wake(&self, now: Moment) -> Option<Moment> {
        if self.is_gone || self.is_silent {
            return None;
        }
        [self.wakes, self.patience].into_iter().flatten().filter(|wakes| *wakes > now).min()
    }

    pub fn act(&mut self, connection: &mut Connection, context: &mut Context) -> Result<(), String> {
        let deeds = self.deeds(connection, context.now);
        let deed = context.prng.pick(&deeds);
        let number = self.number;
        match deed {
            Deed::Read => self.read(connection, context),
            Deed::Write => self.write(connection, context),
            Deed::BeginToWait => {
                self.patience = Some(context.now + PATIENCE);
                Ok(())
            }
            Deed::ShutDown => {
                context.note(|| format!("client {number} ends its direction"));
                self.shut_down(connection, context);
                Ok(())
            }
            Deed::Reset => {
                self.leave(Leave::Reset, connection, context);
                Ok(())
            }
            Deed::Close => {
                self.leave(Leave::Close, connection, context);
                Ok(())
            }
            Deed::Mishap(mishap) => {
                let at_sent = self.mishap_when_sent.is_some_and(|(at, _)| self.sent >= at);
                if at_sent {
                    self.mishap_when_sent = None
                } else {
                    self.mishap_when_read = None
                }
                for request in 0..self.requests().len() {
                    context.excuse(Id(number, request), "the client misbehaves");
                }
                context.note(|| format!("client {number}: {mishap:?}"));
                match mishap {
                    Mishap::Leave(how) => self.leave(how, connection, context),
                    Mishap::HalfClose => self.shut_down(connection, context),
                    Mishap::Pause(pause) => self.wakes = Some(context.now + pause),
                }
                Ok(())
            }
        }
    }

    fn shut_down(&mut self, connection: &mut Connection, context: &mut Context) {
        connection.shut_down(End::Theirs);
        self.has_shut_down = true;
        context.entry(self.id()).client_end.has_ended = true;
    }

    /// Goes, in whatever way.
    pub fn leave(&mut self, how: Leave, connection: &mut Connection, context: &mut Context) {
        let number = self.number;
        context.note(|| format!("client {number} leaves: {how:?}"));
        let id = self.id();
        match how {
            Leave::Silence => {
                self.is_silent = true;
                return;
            }
            Leave::Close => connection.close(End::Theirs, &mut context.prng),
            Leave::Reset => connection.abort(End::Theirs, &mut context.prng),
        }
        self.is_gone = true;
        let end = &mut context.entry(id).client_end;
        end.is_gone = true;
        end.has_ended |= connection.has_shut_down(End::Theirs);
        end.has_reset |= !connection.has_shut_down(End::Theirs) || how == Leave::Reset;
    }

    fn write(&mut self, connection: &mut Connection, context: &mut Context) -> Result<(), String> {
        let most = self.limit(context.now) - self.sent;
        let n = context.scenario.grain.piece(most, &mut context.prng);
        let number = self.number;
        match connection.write(End::Theirs, &self.wire[self.sent..self.sent + n]) {
            Moved::Some(n) => {
                self.sent += n;
                let sent = self.sent;
                context.note(|| format!("client {number} sends {n} bytes: {sent} in all"));
            }
            Moved::Broken(why) => return self.broken(why, context),
            Moved::End | Moved::WouldBlock => {}
        }
        for (request, start) in self.starts.iter().enumerate() {
            let end = self.starts.get(request + 1).copied().unwrap_or(self.tunnel_start);
            let entry = context.entry(Id(number, request));
            entry.is_begun |= self.sent > *start;
            entry.is_sent_whole |= self.sent >= end;
        }
        if self.tunnel_start < self.wire.len() {
            let last = Id(number, self.starts.len() - 1);
            context.entry(last).client_end.sent = self.sent.saturating_sub(self.tunnel_start);
        }
        Ok(())
    }

    fn broken(&mut self, why: &str, context: &mut Context) -> Result<(), String> {
        let number = self.number;
        context.note(|| format!("client {number} is told: {why}"));
        self.is_broken = true;
        self.check_reset(context).map_err(|wrong| format!("client {number}, at answer {}: {wrong}", self.answered))
    }

    fn read(&mut self, connection: &mut Connection, context: &mut Context) -> Result<(), String> {
        let n = context.scenario.grain.piece(connection.readable_bytes(End::Theirs), &mut context.prng);
        let number = self.number;
        match connection.read(End::Theirs, n) {
            Moved::Some(bytes) => {
                self.read += bytes.len();
                context.note(|| format!("client {number} reads {} bytes", bytes.len()));
                self.bytes.extend(bytes);
                self.understand(context)
                    .map_err(|wrong| format!("client {number}, at answer {}: {wrong}", self.answered))
            }
            Moved::End => {
                context.note(|| format!("client {number} reads the end"));
                self.has_seen_end = true;
                self.check_end(context)
                    .map_err(|wrong| format!("client {number}, at answer {}: {wrong}", self.answered))
            }
            Moved::Broken(why) => self.broken(why, context),
            Moved::WouldBlock => Ok(()),
        }
    }

    fn understand(&mut self, context: &mut Context) -> Result<(), String> {
        loop {
            if let Some(read) = self.tunnel {
                let scenario = self.scenario.clone();
                let tunnel = scenario
                    .request(self.id())
                    .and_then(|request| request.tunnel.as_ref())
                    .ok_or("no tunnel was asked for")?;
                tunnel.down.check(read, &self.bytes)?;
                self.tunnel = Some(read + self.bytes.len());
                if read + self.bytes.len() > context.entry(self.id()).origin_end.sent {
                    return Err("the tunnel brings bytes that the origin did not send".into());
                }
                self.bytes.clear();
                return Ok(());
            }
            let goes_on = if self.response.is_some() { self.read_body(context)? } else { self.read_head(context)? };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Whether there is more to look at.
    fn read_head(&mut self, context: &mut Context) -> Result<bool, String> {
        let Some((head, head_bytes)) = Head::read(&self.bytes)? else { return Ok(false) };
        self.bytes.drain(..head_bytes);
        let number = self.number;
        let mut words = head.start.splitn(3, ' ');
        let (version, status) =
            (words.next().unwrap_or_default(), words.next().and_then(|status| status.parse::<u16>().ok()));
        let status = status.ok_or_else(|| format!("not a status line: {:?}", head.start))?;
        context.note(|| format!("client {number} is told {}", head.start));
        let id = self.id();
        let scenario = self.scenario.clone();
        let request = match scenario.request(Id(number, self.answered)) {
            Some(request) if context.entry(id).is_begun => request,
            // Bytes of a tunnel that never came about were taken for a request.
            None if self.sent > self.tunnel_start => {
                self.was_told_close = true;
                self.bytes.clear();
                return Ok(false);
            }
            _ => return Err(format!("an answer that nothing was asked for: {head:?}")),
        };
        let expected = if request.is_http_1_0 && status != 101 { "HTTP/1.0" } else { "HTTP/1.1" };
        // What is refused before its version is understood is told in HTTP/1.1.
        if version != expected && !(head.only("x-id")?.is_none() && version == "HTTP/1.1") {
            return Err(format!("an answer in {version} to a request in {expected}"));
        }
        for name in ["keep-alive", "x-hop", "te", "trailer", "x-trailer"] {
            if head.only(name)?.is_some() {
                return Err(format!("the field `{name}` came through: {head:?}"));
            }
        }
        let told_id = head.only("x-id")?.map(str::to_string);
        if let Some(told) = &told_id
            && Id::read(told) != Some(id)
        {
            return Err(format!("the answer to {told} where {id} was asked"));
        }
        if status < 200 && status != 101 {
            self.interims += 1;
            self.has_continue |= status == 100;
            let told = told_id.is_some()
                && request.answer.interims.contains(&status)
                && self.interims <= 2 * request.answer.interims.len();
            return if told && !request.is_http_1_0 {
                Ok(true)
            } else {
                Err(format!("an interim {status} that no origin sent"))
            };
        }
        let connection = head.only("connection")?.unwrap_or_default().to_string();
        let closes = connection.split(", ").any(|option| option == "close")
            || (request.is_http_1_0 && !connection.ends_with("keep-alive"));
        let is_ours = told_id.is_none();
        if is_ours {
            self.check_own(request, status, context)?;
        } else if !request.kind.may_be_forwarded() || status != request.answer.status {
            return Err(format!(
                "status {status} where {} or an answer of hawkey was due ({:?})",
                request.answer.status, request.kind
            ));
        }
        self.was_told_close |= closes;
        if status == 101 {
            if connection != "Upgrade" || head.only("upgrade")? != Some("websocket") || request.kind != Kind::Tunnel {
                return Err(format!("a 101 that opens nothing: {head:?}"));
            }
            self.tunnel = Some(0);
            context.note(|| format!("client {number} has a tunnel"));
            return Ok(true);
        }
        let body = match head.declared()? {
            _ if request.method == "HEAD" || matches!(status, 204 | 304) => None,
            Some(Body::Chunked(_)) if request.is_http_1_0 => return Err("chunks for an HTTP/1.0 client".into()),
            None if !closes => return Err(format!("a body without an end on a connection that is kept: {head:?}")),
            declared => Some(declared.unwrap_or(Body::UntilClose)),
        };
        self.response = Some(Response { body, content: 0, is_ours, closes });
        Ok(true)
    }

    /// Whether a status of hawkey's own is the one that is due.
    fn check_own(&mut self, request: &Request, status: u16, context: &mut Context) -> Result<(), String> {
        let id = request.id;
        let is_due = match request.kind {
            Kind::AnsweredByUs { status: due, .. } | Kind::WrongBody { status: due } => status == due,
            Kind::Forwarded | Kind::Tunnel => false,
        };
        let is_excused = context.is_excused(id) || context.has_reset_tunnel(id);
        if is_due || (is_excused && matches!(status, 408 | 500 | 503 | 504)) {
            return Ok(());
        }
        Err(format!(
            "hawkey answers {status} to {id} ({} {:?}), without an excuse for it",
            request.method, request.kind
        ))
    }

    /// Whether there is more to look at.
    fn read_body(&mut self, context: &mut Context) -> Result<bool, String> {
        let id = self.id();
        let scenario = self.scenario.clone();
        let Some(request) = scenario.request(id) else { return Ok(false) };
        let Some(response) = &mut self.response else { return Ok(false) };
        let taken = match &mut response.body {
            Some(body) => body.take(&mut self.bytes)?,
            None => Vec::new(),
        };
        if response.is_ours {
            let text = b"<h4>Not Supported</h4>";
            if response.content + taken.len() > text.len()
                || taken != text[response.content..response.content + taken.len()]
            {
                return Err(format!("hawkey's answer has the body {:?}", String::from_utf8_lossy(&taken)));
            }
        } else {
            request
                .answer
                .content
                .check(response.content, &taken)
                .map_err(|wrong| format!("answer to {id}: {wrong}"))?;
        }
        response.content += taken.len();
        if response.body.as_ref().is_none_or(Body::is_whole) {
            return self.finish_response(context).map(|()| !self.bytes.is_empty());
        }
        Ok(false)
    }

    fn finish_response(&mut self, context: &mut Context) -> Result<(), String> {
        let id = self.id();
        let scenario = self.scenario.clone();
        let (Some(response), Some(request)) = (self.response.take(), scenario.request(id)) else { return Ok(()) };
        if !response.is_ours {
            let (sent, all) = (context.entry(id).answer_sent, request.answer.wire.len());
            // A trailer section is not passed on: hawkey knows the end of a body only with its last byte.
            if response.content != request.answer.content.bytes || sent < all {
                return Err(format!(
                    "the answer to {id} looks whole with {} of {} bytes of content; {sent} of {all} bytes left the origin",
                    response.content, request.answer.content.bytes
                ));
            }
        }
        let number = self.number;
        context.note(|| format!("client {number} has the whole answer to {id}"));
        self.answered += 1;
        self.interims = 0;
        self.has_continue = false;
        self.patience = None;
        if response.closes && !self.bytes.is_empty() {
            return Err(format!("{} bytes behind a last answer", self.bytes.len()));
        }
        Ok(())
    }

    /// The connection ended in peace: nothing may be cut short by that.
    fn check_end(&mut self, context: &mut Context) -> Result<(), String> {
        let id = self.id();
        if let Some(read) = self.tunnel {
            let (is_excused, is_stopping) = (context.is_excused(id), context.is_stopping);
            let origin = &context.entry(id).origin_end;
            if origin.has_reset && !origin.has_ended && !is_stopping {
                return Err("the origin reset the tunnel, the client was told an end".into());
            }
            if !is_excused && (!origin.has_ended || read < origin.sent) {
                return Err(format!(
                    "the tunnel ends behind {read} bytes, but the origin ({origin:?}) did not end there"
                ));
            }
            return Ok(());
        }
        // Who has left is owed nothing, and half a head looks whole to nobody.
        if !self.bytes.is_empty() && !self.has_shut_down {
            return Err(format!("an end within a head, behind {:?}", String::from_utf8_lossy(&self.bytes)));
        }
        if let Some(response) = &self.response {
            if response.body != Some(Body::UntilClose) {
                return Err(format!("an end instead of a reset within a body: {:?} is left", response.body));
            }
            return self.finish_response(context);
        }
        let is_due = self.answered < self.requests().len() && context.entry(id).is_begun;
        if is_due && !self.was_told_close && !self.has_lost_tunnel() && !context.is_client_excused(self.number) {
            return Err(format!("an end where the answer to {id} was due"));
        }
        Ok(())
    }

    fn has_lost_tunnel(&self) -> bool {
        self.tunnel.is_none() && self.sent > self.tunnel_start
    }

    fn check_reset(&mut self, context: &mut Context) -> Result<(), String> {
        let id = self.id();
        let excused = context.is_client_excused(self.number)
            || self.was_told_close && self.response.is_none() && self.bytes.is_empty();
        if self.tunnel.is_some() {
            let origin = &context.entry(id).origin_end;
            let is_due = origin.has_reset || origin.is_gone;
            return if is_due || excused {
                Ok(())
            } else {
                Err("the tunnel is reset, though the origin did not reset it".into())
            };
        }
        if excused || self.may_be_reset(context) || self.has_lost_tunnel() {
            return Ok(());
        }
        Err(format!("a reset within or before the answer to {id}, with no excuse for it"))
    }

    /// Whether an answer of hawkey ends in a reset that no excuse is needed for. It can overtake the answers before.
    fn may_be_reset(&self, context: &Context) -> bool {
        self.requests()[self.id().1..].iter().any(|request| {
            let is_wrong = matches!(request.kind, Kind::WrongBody { .. }) && self.sent > self.starts[request.id.1];
            is_wrong || context.has_reset_tunnel(request.id)
        })
    }

    /// What must hold when all is over.
    pub fn check_over(&self, context: &Context) -> Result<(), String> {
        let is_due = self.answered < self.requests().len() && self.tunnel.is_none() && !self.may_be_reset(context);
        if is_due && !self.was_told_close && !self.has_lost_tunnel() && !context.is_client_excused(self.number) {
            return Err(format!(
                "client {} has {} answers to {} requests",
                self.number,
                self.answered,
                self.requests().len()
            ));
        }
        Ok(())
    }

    pub fn state(&self) -> String {
        format!(
            "client {}: sent {} of {}, read {}, answered {} of {}, tunnel {:?}, told close {}, seen end {}, broken {}, gone {}, silent {}, wakes {:?}",
            self.number,
            self.sent,
            self.wire.len(),
            self.read,
            self.answered,
            self.requests().len(),
            self.tunnel,
            self.was_told_close,
            self.has_seen_end,
            self.is_broken,
            self.is_gone,
            self.is_silent,
            self.wakes,
        )
    }
}
