//! An origin's end of one connection: reads requests to the letter, and answers them as was planned.

use std::time::Duration;

use crate::ledger::Context;
use crate::message::{Body, Head};
use crate::network::{Connection, End, Moved};
use crate::scenario::{After, Ends, Framed, Id, Kind, Leave};
use hawkey::proxy::moment::Moment;

/// What comes behind an answer that nobody asked for.
const CHATTER: &[u8] = b"HTTP/1.1 200 OK\r\nX-Id: 99-99\r\nContent-Length: 0\r\n\r\n";

/// How an upstream treats its connections, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    pub refuses: usize,
    pub is_slow: usize,
    pub swallows: usize,
    /// Leaves when it is asked again, without a byte.
    pub is_stale: usize,
    /// Leaves while nothing is asked.
    pub leaves_idle: usize,
    /// Says something while nothing is asked.
    pub chatters: usize,
    /// Pauses, at each thing it does.
    pub pauses: usize,
}

pub struct Origin {
    manners: Manners,
    /// The exchange that hawkey uses the connection for, as its driver knows.
    pub asked_for: Option<Id>,
    bytes: Vec<u8>,
    request: Option<Asked>,
    answer: Option<Answering>,
    answered: usize,
    last_answered: Option<Id>,
    /// Leaves when the next request comes.
    leaves_when_asked: Option<Leave>,
    leaves_at: Option<(Moment, Leave)>,
    tunnel: Option<Tunnel>,
    pub wakes: Option<Moment>,
    pub is_silent: bool,
    has_seen_end: bool,
    is_broken: bool,
    pub is_gone: bool,
    /// It may be used again, as far as this end is concerned.
    pub is_reusable: bool,
}

/// A request whose body is being read.
struct Asked {
    id: Id,
    body: Option<Body>,
    content: usize,
}

struct Answering {
    id: Id,
    sent: usize,
    request_is_whole: bool,
}

struct Tunnel {
    id: Id,
    sent: usize,
    read: usize,
    has_shut_down: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Read,
    Answer,
    Cut(Leave),
    SendDown,
    ShutDown,
    Reset,
    Close,
    LeaveIdle(Leave),
}

impl Origin {
    pub fn new(manners: Manners) -> Origin {
        Origin {
            manners,
            asked_for: None,
            bytes: Vec::new(),
            request: None,
            answer: None,
            answered: 0,
            last_answered: None,
            leaves_when_asked: None,
            leaves_at: None,
            tunnel: None,
            wakes: None,
            is_silent: false,
            has_seen_end: false,
            is_broken: false,
            is_gone: false,
            is_reusable: false,
        }
    }

    fn deeds(&self, connection: &Connection, context: &Context) -> Vec<Deed> {
        let mut deeds = Vec::new();
        let now = context.now;
        if self.is_gone || self.is_silent || self.wakes.is_some_and(|wakes| wakes > now) {
            return deeds;
        }
        if self.is_broken {
            return vec![Deed::Close];
        }
        if connection.can_read(End::Theirs) && !self.has_seen_end {
            deeds.push(Deed::Read);
        }
        if let Some((at, how)) = self.leaves_at
            && at <= now
        {
            deeds.push(Deed::LeaveIdle(how));
        }
        if let Some(Answering { id, sent, request_is_whole }) = &self.answer
            && let Some(request) = context.scenario.request(*id)
            && (*request_is_whole || request.answer.is_early)
        {
            match request.answer.cut {
                Some((at, how)) if *sent >= at => deeds.push(Deed::Cut(how)),
                _ if connection.can_write(End::Theirs) => deeds.push(Deed::Answer),
                _ => {}
            }
        }
        if let Some(tunnel) = &self.tunnel
            && let Some(plan) = context.scenario.request(tunnel.id).and_then(|request| request.tunnel.as_ref())
        {
            let has_sent_all = tunnel.sent == plan.down.bytes;
            if !has_sent_all && !tunnel.has_shut_down && connection.can_write(End::Theirs) {
                deeds.push(Deed::SendDown);
            }
            match plan.origin_ends {
                Ends::Reset if has_sent_all => deeds.push(Deed::Reset),
                Ends::WhenSent if has_sent_all && !tunnel.has_shut_down => deeds.push(Deed::ShutDown),
                Ends::Second if has_sent_all && self.has_seen_end && !tunnel.has_shut_down => {
                    deeds.push(Deed::ShutDown)
                }
                _ => {}
            }
        }
        if self.has_seen_end && self.tunnel.as_ref().is_none_or(|tunnel| tunnel.has_shut_down) {
            deeds.push(Deed::Close);
        }
        deeds
    }

    pub fn can_act(&self, connection: &Connection, context: &Context) -> bool {
        !self.deeds(connection, context).is_empty()
    }

    /// Whether it is to blame if nothing moves.
    pub fn is_waiting(&self, now: Moment) -> bool {
        self.is_silent || self.is_gone || self.wakes.is_some_and(|wakes| wakes > now)
    }

    pub fn next_wake(&self, now: Moment) -> Option<Moment> {
        if self.is_gone || self.is_silent {
            return None;
        }
        [self.wakes, self.leaves_at.map(|(at, _)| at)].into_iter().flatten().filter(|wakes| *wakes > now).min()
    }

    pub fn act(&mut self, connection: &mut Connection, context: &mut Context) -> Result<(), String> {
        if self.tunnel.is_none() && context.prng.chance(self.manners.pauses) {
            self.wakes = Some(context.now + Duration::from_millis(context.prng.below(12_000) as u64));
            if let Some(id) = self.asked_for {
                context.excuse(id, "the origin pauses");
            }
            return Ok(());
        }
        let deeds = self.deeds(connection, context);
        match context.prng.pick(&deeds) {
            Deed::Read => return self.read(connection, context),
            Deed::Answer => return self.send_answer(connection, context),
            Deed::SendDown => return self.send_down(connection, context),
            Deed::Cut(how) => self.leave(how, connection, context),
            Deed::LeaveIdle(how) => {
                self.leaves_at = None;
                self.leave(how, connection, context);
            }
            Deed::Reset => self.leave(Leave::Reset, connection, context),
            Deed::Close => self.leave(Leave::Close, connection, context),
            Deed::ShutDown => {
                connection.shut_down(End::Theirs);
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.has_shut_down = true;
                    let id = tunnel.id;
                    context.note(|| format!("origin ends its direction of the tunnel {id}"));
                    context.entry(id).origin_end.has_ended = true;
                }
            }
        }
        Ok(())
    }

    /// Goes, in whatever way. A request that can be asked again is no worse for it, as long as nothing was answered.
    pub fn leave(&mut self, how: Leave, connection: &mut Connection, context: &mut Context) {
        let answer_sent = self.answer.as_ref().map_or(0, |answer| answer.sent);
        if let Some(id) = self.asked_for {
            let is_reset = how == Leave::Reset || connection.readable_bytes(End::Theirs) > 0;
            let is_harmless = if self.last_answered == Some(id) {
                // The answer is under way, and outlives an end, but not a reset.
                !is_reset
            } else {
                let may_be_repeated = context.scenario.request(id).is_some_and(|request| request.may_be_repeated());
                self.answered > 0 && answer_sent == 0 && how != Leave::Silence && may_be_repeated
            };
            let was_told = self.is_broken || self.has_seen_end;
            if !is_harmless && self.tunnel.is_none() && !was_told {
                context.excuse(id, "the origin leaves");
            }
            context.note(|| format!("the origin of {id} leaves: {how:?}"));
        }
        match how {
            Leave::Silence => {
                self.is_silent = true;
                return;
            }
            Leave::Close => connection.close(End::Theirs, &mut context.prng),
            Leave::Reset => connection.abort(End::Theirs, &mut context.prng),
        }
        self.is_gone = true;
        if let Some(tunnel) = &self.tunnel {
            let end = &mut context.entry(tunnel.id).origin_end;
            end.is_gone = true;
            end.has_ended |= connection.has_shut_down(End::Theirs);
            end.has_reset |= !connection.has_shut_down(End::Theirs) || how == Leave::Reset;
        }
    }

    fn read(&mut self, connection: &mut Connection, context: &mut Context) -> Result<(), String> {
        let n = context.scenario.grain.piece(connection.readable_bytes(End::Theirs), &mut context.prng);
        let id = self.asked_for;
        let told = |wrong: String| format!("the origin of {id:?}: {wrong}");
        match connection.read(End::Theirs, n) {
            Moved::Some(bytes) => {
                context.note(|| format!("the origin of {id:?} reads {} bytes", bytes.len()));
                self.bytes.extend(bytes);
                if self.answered > 0
                    && self.request.is_none()
                    && let Some(how) = self.leaves_when_asked.take()
                {
                    // It may have acted on what it was asked, or not have looked at it.
                    let seen = if context.prng.chance(50) { self.understand(context).map_err(told) } else { Ok(()) };
                    self.leave(how, connection, context);
                    return seen;
                }
                self.leaves_at = None;
                self.understand(context).map_err(told)
            }
            Moved::End => {
                context.note(|| format!("the origin of {id:?} reads the end"));
                self.has_seen_end = true;
                self.check_end(context).map_err(told)
            }
            Moved::Broken(why) => self.broken(why, context),
            Moved::WouldBlock => Ok(()),
        }
    }

    fn broken(&mut self, why: &str, context: &mut Context) -> Result<(), String> {
        let id = self.asked_for;
        context.note(|| format!("the origin of {id:?} is told: {why}"));
        self.is_broken = true;
        self.check_reset(context).map_err(|wrong| format!("the origin of {id:?}: {wrong}"))
    }

    fn understand(&mut self, context: &mut Context) -> Result<(), String> {
        if let Some(tunnel) = &mut self.tunnel {
            let scenario = context.scenario.clone();
            let plan = scenario
                .request(tunnel.id)
                .and_then(|request| request.tunnel.as_ref())
                .ok_or("no tunnel was planned")?;
            plan.up.check(tunnel.read, &self.bytes)?;
            tunnel.read += self.bytes.len();
            let sent = context.entry(tunnel.id).client_end.sent;
            if tunnel.read > sent {
                return Err(format!("the tunnel brings {} bytes where the client sent {sent}", tunnel.read));
            }
            self.bytes.clear();
            return Ok(());
        }
        while !self.bytes.is_empty() {
            if self.request.is_none() {
                if let Some(answer) = &self.answer {
                    let bytes = self.bytes.escape_ascii().to_string();
                    return Err(format!(
                        "bytes behind the request {}, which is not answered yet: {bytes:?}",
                        answer.id
                    ));
                }
                let Some((head, head_bytes)) = Head::read(&self.bytes)? else { return Ok(()) };
                self.bytes.drain(..head_bytes);
                self.begin_request(&head, context)?;
            }
            self.read_body(context)?;
        }
        Ok(())
    }

    fn begin_request(&mut self, head: &Head, context: &mut Context) -> Result<(), String> {
        let id =
            head.only("x-id")?.and_then(Id::read).ok_or_else(|| format!("a request that nobody sent: {head:?}"))?;
        context.note(|| format!("the origin is asked {} {id}", head.start));
        let scenario = context.scenario.clone();
        let request = scenario.request(id).ok_or_else(|| format!("a request that nobody sent: {head:?}"))?;
        if self.asked_for != Some(id) {
            return Err(format!("{id} comes over a connection for {:?}", self.asked_for));
        }
        if !request.kind.may_be_forwarded() {
            return Err(format!("{id} was for hawkey to answer: {head:?}"));
        }
        let start = format!("{} /r/{id} HTTP/1.1", request.method);
        if head.start != start || head.only("host")? != Some("h") {
            return Err(format!("{start:?} for the host h was sent, {head:?} came"));
        }
        for name in ["keep-alive", "x-hop", "te", "trailer", "x-trailer"] {
            if head.only(name)?.is_some() {
                return Err(format!("the field `{name}` came through: {head:?}"));
            }
        }
        let asks_for_websocket =
            head.only("upgrade")? == Some("websocket") && head.only("connection")? == Some("Upgrade");
        let was_asked = request.wire.windows(9).any(|nine| nine == b"websocket");
        if asks_for_websocket != was_asked && request.wire.len() == request.head_bytes {
            return Err(format!("a WebSocket was asked for: {was_asked}, and came: {asks_for_websocket}"));
        }
        let entry = context.entry(id);
        if entry.heads_seen > 0 && !(entry.may_be_seen_again && request.is_idempotent() && entry.heads_seen == 1) {
            return Err(format!("{} {id} is asked once more: {entry:?}", request.method));
        }
        entry.heads_seen += 1;
        entry.may_be_seen_again = false;
        let body = head.declared()?.filter(|body| *body != Body::Length(0));
        if matches!(body, Some(Body::Chunked(_)))
            != (request.is_chunked || matches!(request.kind, Kind::WrongBody { status: 400 }))
        {
            return Err(format!("another framing than was sent: {head:?}"));
        }
        self.is_reusable = false;
        self.request = Some(Asked { id, body, content: 0 });
        self.answer = Some(Answering { id, sent: 0, request_is_whole: false });
        Ok(())
    }

    fn read_body(&mut self, context: &mut Context) -> Result<(), String> {
        let Some(asked) = &mut self.request else { return Ok(()) };
        let scenario = context.scenario.clone();
        let Some(request) = scenario.request(asked.id) else { return Ok(()) };
        let taken = match &mut asked.body {
            Some(body) => body.take(&mut self.bytes)?,
            None => Vec::new(),
        };
        if request.kind != (Kind::WrongBody { status: 400 }) {
            request.content.check(asked.content, &taken).map_err(|wrong| format!("request {}: {wrong}", asked.id))?;
        }
        asked.content += taken.len();
        if !asked.body.as_ref().is_none_or(Body::is_whole) {
            return Ok(());
        }
        let (id, content) = (asked.id, asked.content);
        if matches!(request.kind, Kind::WrongBody { .. })
            || content != request.content.bytes
            || !context.entry(id).is_sent_whole
        {
            return Err(format!(
                "{id} looks whole with {content} of {} bytes of content ({:?})",
                request.content.bytes, request.kind
            ));
        }
        context.note(|| format!("the origin has all of {id}"));
        self.request = None;
        // Else it was answered before its end had come.
        if let Some(answer) = &mut self.answer {
            answer.request_is_whole = true;
        }
        Ok(())
    }

    fn send_answer(&mut self, connection: &mut Connection, context: &mut Context) -> Result<(), String> {
        let Some(answer) = &mut self.answer else { return Ok(()) };
        let id = answer.id;
        let scenario = context.scenario.clone();
        let Some(request) = scenario.request(id) else { return Ok(()) };
        let plan = &request.answer;
        let most = plan.cut.map_or(plan.wire.len(), |(at, _)| at) - answer.sent;
        let rest = &plan.wire[answer.sent..];
        let chatters = plan.after == After::Chatter && plan.cut.is_none() && plan.status != 101;
        let n = context.scenario.grain.piece(most, &mut context.prng);
        let has_chattered = chatters && rest.len() == n && n > 0 && connection.room(End::Theirs) >= n + CHATTER.len();
        let extra: &[u8] = if has_chattered { CHATTER } else { b"" };
        match connection.write(End::Theirs, &[&rest[..n], extra].concat()) {
            Moved::Some(n) => answer.sent += n - extra.len(),
            Moved::Broken(why) => return self.broken(why, context),
            Moved::End | Moved::WouldBlock => return Ok(()),
        }
        if has_chattered {
            connection.glue(End::Theirs, CHATTER.len());
            context.note(|| format!("the origin of {id} says more than it was asked"));
        }
        let (sent, is_whole) = (answer.sent, answer.request_is_whole);
        context.note(|| format!("the origin of {id} has sent {sent} of {} bytes", plan.wire.len()));
        let entry = context.entry(id);
        entry.answer_sent = entry.answer_sent.max(sent);
        if !is_whole && !request.expects_continue {
            context.excuse(id, "the origin answers early");
        }
        if sent < plan.wire.len() || plan.cut.is_some_and(|(at, _)| at >= sent) {
            return Ok(());
        }
        if !is_whole {
            context.excuse(id, "the origin answers early");
        }
        self.finish_answer(id, is_whole, has_chattered, connection, context);
        Ok(())
    }

    fn finish_answer(
        &mut self,
        id: Id,
        request_is_whole: bool,
        has_chattered: bool,
        connection: &mut Connection,
        context: &mut Context,
    ) {
        let scenario = context.scenario.clone();
        let Some(plan) = scenario.request(id).map(|request| &request.answer) else { return };
        self.answer = None;
        self.answered += 1;
        self.last_answered = Some(id);
        if plan.status == 101 {
            self.tunnel = Some(Tunnel { id, sent: 0, read: 0, has_shut_down: false });
            return;
        }
        let soon = |context: &mut Context, most| context.now + Duration::from_millis(context.prng.below(most) as u64);
        match plan.after {
            After::CloseAnnounced => {
                if !request_is_whole {
                    context.excuse(id, "the origin closes before it has read all");
                }
                connection.close(End::Theirs, &mut context.prng);
                if connection.has_broken(End::Theirs) || !connection.has_shut_down(End::Theirs) {
                    context.excuse(id, "the origin closes before it has read all");
                }
                self.is_gone = true;
            }
            After::CloseUnannounced => {
                self.is_reusable = true;
                self.leaves_at = Some((soon(context, 20), Leave::Close));
            }
            After::Keep | After::Chatter => {
                self.is_reusable = !has_chattered && plan.framed != Framed::UntilClose;
                let how = context.prng.pick(&[Leave::Close, Leave::Reset]);
                if context.prng.chance(self.manners.is_stale) {
                    self.leaves_when_asked = Some(how);
                } else if context.prng.chance(self.manners.leaves_idle) {
                    self.leaves_at = Some((soon(context, 3000), how));
                }
            }
        }
    }

    fn send_down(&mut self, connection: &mut Connection, context: &mut Context) -> Result<(), String> {
        let Some(tunnel) = &mut self.tunnel else { return Ok(()) };
        let scenario = context.scenario.clone();
        let Some(plan) = scenario.request(tunnel.id).and_then(|request| request.tunnel.as_ref()) else { return Ok(()) };
        let n = scenario.grain.piece(plan.down.bytes - tunnel.sent, &mut context.prng);
        let bytes: Vec<u8> = (tunnel.sent..tunnel.sent + n).map(|place| plan.down.at(place)).collect();
        match connection.write(End::Theirs, &bytes) {
            Moved::Some(n) => tunnel.sent += n,
            Moved::Broken(why) => return self.broken(why, context),
            Moved::End | Moved::WouldBlock => {}
        }
        context.entry(tunnel.id).origin_end.sent = tunnel.sent;
        Ok(())
    }

    /// hawkey's direction ended in peace.
    fn check_end(&mut self, context: &mut Context) -> Result<(), String> {
        if let Some(tunnel) = &self.tunnel {
            let (is_excused, is_stopping) = (context.is_excused(tunnel.id), context.is_stopping);
            let client = &context.entry(tunnel.id).client_end;
            if client.has_reset && !client.has_ended && !is_stopping {
                return Err("the client reset the tunnel, the origin was told an end".into());
            }
            if !is_excused && (!client.has_ended || tunnel.read < client.sent) {
                return Err(format!(
                    "the tunnel ends behind {} bytes, but the client ({client:?}) did not end there",
                    tunnel.read
                ));
            }
            return Ok(());
        }
        let is_within = self.request.is_some() || !self.bytes.is_empty();
        if is_within && self.answered == 0 && self.answer.is_some() {
            return Err("an end instead of a reset within a request".into());
        }
        Ok(())
    }

    fn check_reset(&mut self, context: &mut Context) -> Result<(), String> {
        let Some(tunnel) = &self.tunnel else { return Ok(()) };
        let is_excused = context.is_excused(tunnel.id);
        let client = &context.entry(tunnel.id).client_end;
        if client.has_reset || client.is_gone || is_excused {
            return Ok(());
        }
        Err("the tunnel is reset, though the client did not reset it".into())
    }

    /// What is idle says something that nobody asked for; at once, because what arrives behind a request cannot be told from
    /// its answer.
    pub fn may_chatter(&self, context: &mut Context) -> bool {
        !self.is_gone
            && !self.is_silent
            && self.answer.is_none()
            && self.request.is_none()
            && context.prng.chance(self.manners.chatters)
    }

    pub fn chatter(&mut self, connection: &mut Connection, context: &mut Context) {
        if connection.room(End::Theirs) >= CHATTER.len() && !connection.is_under_way(End::Ours) {
            context.note(|| "an idle origin speaks".into());
            let _ = connection.write(End::Theirs, CHATTER);
            connection.deliver(End::Ours, CHATTER.len(), &mut context.prng);
            self.is_reusable = false;
        }
    }

    pub fn state(&self) -> String {
        format!(
            "origin for {:?}: request {:?}, answer {:?}, answered {}, tunnel {:?}, seen end {}, broken {}, gone {}, silent {}, wakes {:?}",
            self.asked_for,
            self.request.as_ref().map(|asked| (asked.id, asked.content)),
            self.answer.as_ref().map(|answer| (answer.id, answer.sent, answer.request_is_whole)),
            self.answered,
            self.tunnel.as_ref().map(|tunnel| (tunnel.id, tunnel.sent, tunnel.read)),
            self.has_seen_end,
            self.is_broken,
            self.is_gone,
            self.is_silent,
            self.wakes,
        )
    }
}
