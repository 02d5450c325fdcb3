//! The wall between the layers: reads `src/` and holds it against the layer table.
//!
//! A module names the layers to its right and no others, uses only the crates of its layer, and never contains what its layer
//! must not. Comments, documentation and `#[cfg(test)] mod tests` are not looked at; strings only where a rule is about them.
//!
//! `http` and `proxy` are a package of their own, `src/core`: it depends on the crates of these two layers, and what is outside names
//! them as modules of hawkey, so that the table counts.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fmt, fs};

/// Of hawkey and of its core.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "src/core/Cargo.toml"];

/// Lines that a file may have, its tests not counted.
const LINES_MAX: usize = 600;

/// One row of the table.
struct Layer {
    name: &'static str,
    /// Whether it is in `src/core`.
    is_core: bool,
    /// Layers of ours that it names.
    names: &'static [&'static str],
    /// Crates that it uses, beside the standard library.
    crates: &'static [&'static str],
    /// Paths that it never names, each with what is allowed below it.
    never: &'static [(&'static str, &'static [&'static str])],
    /// Ends of paths and single words that it never contains.
    never_words: &'static [&'static str],
    /// What none of its strings contains, as written in the source.
    never_in_strings: &'static [&'static str],
}

const ADDRESSES: &[&str] = &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6"];

const LAYERS: &[Layer] = &[
    Layer {
        name: "http",
        is_core: true,
        names: &[],
        crates: &["httparse", "base64", "sha1_smol"],
        never: &[
            ("std::io", &["Write"]),
            ("std::net", ADDRESSES),
            ("std::fs", &[]),
            ("std::time", &[]),
            ("std::thread", &[]),
            ("std::env", &[]),
            ("std::process", &[]),
            ("std::os", &[]),
            ("std::sync", &[]),
            ("std::cell", &[]),
        ],
        never_words: &["Instant", "SystemTime", "thread_local", "static"],
        never_in_strings: &[],
    },
    Layer {
        name: "proxy",
        is_core: true,
        names: &["http"],
        crates: &["log"],
        never: &[
            ("std::io", &[]),
            ("std::net", ADDRESSES),
            ("std::fs", &[]),
            ("std::thread", &[]),
            ("std::env", &[]),
            ("std::process", &[]),
            ("std::os", &[]),
            ("std::sync", &[]),
        ],
        never_words: &["Instant", "SystemTime", "thread_local", "static"],
        never_in_strings: &[],
    },
    Layer {
        name: "config",
        is_core: false,
        names: &["proxy", "http"],
        crates: &["toml", "humantime"],
        never: &[("std::thread", &[]), ("std::process", &[])],
        never_words: &["Instant", "SystemTime"],
        never_in_strings: &[],
    },
    Layer {
        name: "server",
        is_core: false,
        names: &["config", "proxy", "http", "os"],
        // rustix for the names of errors only: see `never`.
        crates: &["mio", "socket2", "slab", "log", "env_logger", "env_filter", "humantime", "jzon", "rustix"],
        never: &[("rustix", &["io::Errno"])],
        never_words: &[],
        never_in_strings: &["\\r\\n", "HTTP/"],
    },
    Layer {
        name: "os",
        is_core: false,
        names: &[],
        crates: &["rustix", "sd_listen_fds", "signal_hook"],
        never: &[],
        never_words: &[],
        never_in_strings: &["\\r\\n", "HTTP/"],
    },
    Layer {
        name: "main",
        is_core: false,
        names: &["config", "proxy", "server"],
        crates: &["hawkey", "jzon", "lexopt"],
        never: &[("std::net", ADDRESSES), ("std::thread", &[])],
        never_words: &["Instant", "SystemTime"],
        never_in_strings: &["\\r\\n"],
    },
];

#[test]
fn the_layers_hold() {
    let dependencies = dependencies();
    let broken: Vec<_> = sources().iter().flat_map(|source| check(source, &dependencies)).collect();
    assert!(broken.is_empty(), "{}", told(&broken));
}

#[test]
fn every_layer_of_the_table_is_there() {
    let found: BTreeSet<_> =
        sources().iter().filter_map(|source| layer_of(&source.path)).map(|layer| layer.name).collect();
    let expected: BTreeSet<_> = LAYERS.iter().map(|layer| layer.name).collect();
    assert_eq!(found, expected, "the layers of src/ against the layers of the table");
}

#[test]
fn the_core_depends_on_the_crates_of_its_layers_and_no_others() {
    let mut expected: Vec<_> =
        LAYERS.iter().filter(|layer| layer.is_core).flat_map(|layer| layer.crates.iter().copied()).collect();
    expected.sort_unstable();
    assert_eq!(dependencies_of("src/core/Cargo.toml"), expected);
}

#[test]
fn every_file_begins_with_what_it_is() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "{} does not begin with `//! `, what it is and promises", source.path);
    }
}

#[test]
fn no_file_is_longer_than_a_person_reads_in_one_sitting() {
    let long: Vec<_> = sources()
        .iter()
        .map(|source| (source.path.clone(), lines_without_tests(&source.text)))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines without its tests, over {LINES_MAX}"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn unsafe_code_is_forbidden() {
    let manifest = read("Cargo.toml");
    let lints = manifest.split("[workspace.lints.rust]").nth(1).and_then(|rest| rest.split("\n[").next());
    assert!(
        lints.unwrap_or_default().lines().any(|line| line.split_whitespace().eq(["unsafe_code", "=", "\"forbid\""])),
        "no `unsafe_code = \"forbid\"` in [workspace.lints.rust]"
    );
    for path in MANIFESTS {
        assert!(
            read(path).contains("\n[lints]\nworkspace = true\n"),
            "{path} does not take the lints of the workspace"
        );
    }
    for source in sources() {
        for token in tokens(&source.text) {
            assert_ne!(token.text, "unsafe", "{}:{} says unsafe", source.path, token.line);
        }
    }
}

// The checker.

/// A file below `src/`.
struct Source {
    /// From the root of the repository.
    path: String,
    text: String,
}

/// A line that breaks a rule.
#[derive(Debug)]
struct Broken {
    path: String,
    line: usize,
    text: String,
    rule: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}\n    {}", self.path, self.line, self.rule, self.text)
    }
}

fn told(broken: &[Broken]) -> String {
    broken.iter().map(|broken| format!("{broken}\n")).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut folders = vec![root().join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let from_root = path.strip_prefix(root()).unwrap().display().to_string();
                sources.push(Source { path: from_root, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The crates that a manifest names under `[dependencies]`, as they are written in code.
fn dependencies_of(manifest: &str) -> Vec<String> {
    let manifest = read(manifest);
    let table = manifest.split("\n[dependencies]\n").nth(1).and_then(|rest| rest.split("\n[").next()).unwrap();
    let names = table.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim().replace('-', "_"));
    names.collect()
}

/// All that the two manifests name, and hawkey itself.
fn dependencies() -> Vec<String> {
    MANIFESTS.into_iter().flat_map(dependencies_of).chain(["hawkey".to_string()]).collect()
}

/// The part of a path below the root of its crate, and whether that is the core.
fn below_root(path: &str) -> (&str, bool) {
    match path.strip_prefix("src/core/") {
        Some(below) => (below, true),
        None => (path.trim_start_matches("src/"), false),
    }
}

/// `None` for a lib.rs, which names the layers to make them one crate.
fn layer_of(path: &str) -> Option<&'static Layer> {
    let (below, is_core) = below_root(path);
    let name = below.split_once('/').map_or("main", |(folder, _)| folder);
    if below == "lib.rs" { None } else { LAYERS.iter().find(|layer| layer.name == name && layer.is_core == is_core) }
}

fn check(source: &Source, dependencies: &[String]) -> Vec<Broken> {
    if below_root(&source.path).0 == "lib.rs" {
        return Vec::new();
    }
    let mut broken = Vec::new();
    let mut note = |line: usize, rule: String| {
        let text = source.text.lines().nth(line - 1).unwrap_or_default().trim().to_string();
        broken.push(Broken { path: source.path.clone(), line, text, rule });
    };
    let Some(layer) = layer_of(&source.path) else {
        note(1, "a folder that is no layer of the table".to_string());
        return broken;
    };
    let tokens = without_tests(tokens(&source.text));
    for token in tokens.iter().filter(|token| token.kind == Kind::String) {
        for never in layer.never_in_strings.iter().filter(|never| token.text.contains(**never)) {
            note(token.line, format!("`{}` has no string with `{never}`", layer.name));
        }
    }
    for path in paths(&tokens) {
        if let Some(rule) = rule_broken_by(&path, layer, &source.path, dependencies) {
            note(path.line, rule);
        }
    }
    broken
}

fn rule_broken_by(path: &NamedPath, layer: &Layer, file: &str, dependencies: &[String]) -> Option<String> {
    let text = path.text();
    if let Some(named) = layer_named(path, file) {
        let is_own =
            named == layer.name || (layer.name == "main" && ["arguments", "ask", "explain"].contains(&named.as_str()));
        let may = is_own || (layer.name != "main" && layer.names.contains(&named.as_str()));
        return (!may).then(|| format!("`{}` does not name `{named}`", layer.name));
    }
    let first = path.segments.first()?;
    let is_crate = path.segments.len() > 1 || path.is_use;
    if is_crate && dependencies.contains(first) && !layer.crates.contains(&first.as_str()) {
        return Some(format!("`{}` does not use the crate `{first}`", layer.name));
    }
    if layer.name == "main"
        && first == "hawkey"
        && path.segments.get(1).is_some_and(|second| LAYERS.iter().any(|layer| layer.name == second))
    {
        let second = &path.segments[1];
        return (!layer.names.contains(&second.as_str())).then(|| format!("`main` does not name `{second}`"));
    }
    for (never, but) in layer.never {
        let Some(below) = text.strip_prefix(never).filter(|below| below.is_empty() || below.starts_with("::")) else {
            continue;
        };
        let below = below.trim_start_matches("::");
        let is_allowed =
            but.iter().any(|but| below == *but || below.strip_prefix(but).is_some_and(|rest| rest.starts_with("::")));
        if !is_allowed {
            return Some(format!("`{}` does not name {never}{}", layer.name, excepting(but)));
        }
    }
    let word = layer
        .never_words
        .iter()
        .find(|word| text == **word || text.ends_with(&format!("::{word}")) || path.contains(word))?;
    Some(format!("`{}` does not contain `{word}`", layer.name))
}

fn excepting(but: &[&str]) -> String {
    if but.is_empty() { String::new() } else { format!(" but for {}", but.join(", ")) }
}

/// The module below the root of its crate that a path names.
fn layer_named(path: &NamedPath, file: &str) -> Option<String> {
    let first = path.segments.first()?;
    let rest: Vec<_> = match first.as_str() {
        "crate" => path.segments.iter().skip(1).cloned().collect(),
        "super" => {
            let mut here: Vec<_> = below_root(file).0.trim_end_matches(".rs").split('/').map(str::to_string).collect();
            here.retain(|part| part != "mod" && part != "main" && part != "lib");
            let ups = path.segments.iter().take_while(|segment| *segment == "super").count();
            here.truncate(here.len().saturating_sub(ups));
            here.into_iter().chain(path.segments.iter().skip(ups).cloned()).collect()
        }
        _ => return None,
    };
    rest.into_iter().next()
}

/// What two or more tokens, or one word, name: `std::io::Write`.
#[derive(Debug, PartialEq, Eq)]
struct NamedPath {
    segments: Vec<String>,
    line: usize,
    /// Whether it stands in a `use` declaration.
    is_use: bool,
}

impl NamedPath {
    fn text(&self) -> String {
        self.segments.join("::")
    }

    /// Whether `words` (`a` or `a::b`) stand anywhere in it.
    fn contains(&self, words: &str) -> bool {
        let words: Vec<_> = words.split("::").collect();
        self.segments.windows(words.len()).any(|window| window == words)
    }
}

/// Every path that is named, those of `use` declarations written out.
fn paths(tokens: &[Token]) -> Vec<NamedPath> {
    let mut paths = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if token.kind == Kind::Word && token.text == "use" {
            at += 1;
            while tokens.get(at).is_some_and(|token| token.text == "::") {
                at += 1;
            }
            use_tree(tokens, &mut at, &[], &mut paths);
        } else if token.kind == Kind::Word {
            let mut segments = vec![token.text.clone()];
            at += 1;
            while tokens.get(at).is_some_and(|token| token.text == "::")
                && let Some(next) = tokens.get(at + 1).filter(|next| next.kind == Kind::Word)
            {
                segments.push(next.text.clone());
                at += 2;
            }
            paths.push(NamedPath { segments, line: token.line, is_use: false });
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads one tree of a `use` declaration (`a::{self, b::c as d}`) and leaves `at` behind it.
fn use_tree(tokens: &[Token], at: &mut usize, before: &[String], paths: &mut Vec<NamedPath>) {
    let mut segments = before.to_vec();
    let line = tokens.get(*at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(*at) {
        match token.text.as_str() {
            "{" => {
                *at += 1;
                while tokens.get(*at).is_some_and(|token| token.text != "}") {
                    use_tree(tokens, at, &segments, paths);
                    *at += usize::from(tokens.get(*at).is_some_and(|token| token.text == ","));
                }
                *at += 1;
                return;
            }
            "," | "}" | ";" => break,
            "as" => *at += 1,
            "self" if !segments.is_empty() => {}
            "::" => {}
            name => segments.push(name.to_string()),
        }
        *at += 1;
    }
    if !segments.is_empty() {
        paths.push(NamedPath { segments, line, is_use: true });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    /// The text between the quotes, as written.
    String,
    Sign,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    text: String,
    line: usize,
}

/// Words, strings and signs; comments and white space are left out, lifetimes and characters too.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(first) = rest.chars().next() {
        let mut put = |kind, text: &str| tokens.push(Token { kind, text: text.to_string(), line });
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some((inside, length)) = string(rest) {
            put(Kind::String, inside);
            length
        } else if first == '\'' {
            character_or_lifetime(rest)
        } else if is_word(first) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            put(Kind::Word, &rest[..length]);
            length
        } else if rest.starts_with("::") {
            put(Kind::Sign, "::");
            2
        } else {
            if !first.is_whitespace() {
                put(Kind::Sign, &rest[..first.len_utf8()]);
            }
            first.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of the block comment that `text` begins with; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The string literal that `text` begins with, plain, of bytes or raw: what it holds, as written, and its length.
fn string(text: &str) -> Option<(&str, usize)> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let after = text.strip_prefix(prefix).unwrap_or_default();
        after.starts_with('"')
            || (prefix.ends_with('r') && after.trim_start_matches('#').starts_with('"') && after.starts_with('#'))
    })?;
    let after = &text[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let inside = &after[hashes + 1..];
    let end = if prefix.ends_with('r') {
        inside.find(&format!("\"{}", "#".repeat(hashes)))?
    } else {
        let mut escaped = false;
        inside.bytes().position(|byte| {
            let is_end = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            is_end
        })?
    };
    Some((&inside[..end], prefix.len() + hashes + 1 + end + 1 + hashes))
}

fn character_or_lifetime(text: &str) -> usize {
    let after = &text[1..];
    if after.starts_with('\\') {
        return 3 + after[2..].find('\'').unwrap_or(0) + 1;
    }
    let mut characters = after.char_indices();
    characters.next();
    match characters.next() {
        Some((end, '\'')) => end + 2,
        _ => 1 + after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len()),
    }
}

/// The tokens without `#[cfg(test)] mod … { … }`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match end_of_tests(&tokens[at..]) {
            Some(length) => at += length,
            None => {
                kept.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    kept
}

/// The number of tokens of the test module that `tokens` begin with.
fn end_of_tests(tokens: &[Token]) -> Option<usize> {
    const BEGIN: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    if !tokens.iter().map(|token| token.text.as_str()).take(BEGIN.len()).eq(BEGIN) {
        return None;
    }
    let open = tokens.iter().position(|token| token.kind == Kind::Sign && token.text == "{")?;
    let mut depth = 0;
    let close = tokens[open..].iter().position(|token| {
        let is = |sign: &str| token.kind == Kind::Sign && token.text == sign;
        depth += i32::from(is("{")) - i32::from(is("}"));
        depth == 0
    });
    Some(close.map_or(tokens.len(), |close| open + close + 1))
}

fn lines_without_tests(text: &str) -> usize {
    let tokens = tokens(text);
    let tests: usize = (0..tokens.len())
        .filter_map(|at| end_of_tests(&tokens[at..]).map(|length| tokens[at + length - 1].line - tokens[at].line + 1))
        .sum();
    text.lines().count() - tests
}

// The checker can fail.

fn rules_broken(path: &str, text: &str) -> Vec<String> {
    let source = Source { path: path.to_string(), text: text.to_string() };
    check(&source, &dependencies()).into_iter().map(|broken| broken.rule).collect()
}

#[test]
fn what_breaks_a_rule_is_found() {
    for (path, text, rule) in [
        ("src/core/http/x.rs", "use crate::proxy::flow::Flow;", "`http` does not name `proxy`"),
        ("src/core/http/x.rs", "fn f() { super::super::server::f() }", "`http` does not name `server`"),
        ("src/core/http/mod.rs", "use super::config::Config;", "`http` does not name `config`"),
        ("src/core/http/x.rs", "use {crate::os};", "`http` does not name `os`"),
        ("src/core/http/x.rs", "use log;", "`http` does not use the crate `log`"),
        ("src/core/http/x.rs", "fn f() { log::debug!(\"x\") }", "`http` does not use the crate `log`"),
        ("src/core/http/x.rs", "use std::io::Read;", "`http` does not name std::io but for Write"),
        ("src/core/http/x.rs", "use std::io::{self, Write as _};", "`http` does not name std::io but for Write"),
        ("src/core/http/x.rs", "use std::{fmt, fs::File};", "`http` does not name std::fs"),
        ("src/core/http/x.rs", "static COUNT: u8 = 0;", "`http` does not contain `static`"),
        ("src/core/proxy/x.rs", "use crate::config::Config;", "`proxy` does not name `config`"),
        ("src/core/proxy/x.rs", "use mio::Token;", "`proxy` does not use the crate `mio`"),
        ("src/core/proxy/x.rs", "fn f(at: Instant) {}", "`proxy` does not contain `Instant`"),
        ("src/core/proxy/x.rs", "fn f() { std::time::Instant::now(); }", "`proxy` does not contain `Instant`"),
        ("src/core/proxy/x.rs", "fn f(t: std::time::SystemTime) {}", "`proxy` does not contain `SystemTime`"),
        ("src/config/x.rs", "use mio::Token;", "`config` does not use the crate `mio`"),
        ("src/config/x.rs", "use crate::server::Server;", "`config` does not name `server`"),
        ("src/server/x.rs", "const END: &[u8] = b\"\\r\\n\";", "`server` has no string with `\\r\\n`"),
        ("src/server/x.rs", "const V: &str = r#\"HTTP/1.1\"#;", "`server` has no string with `HTTP/`"),
        ("src/server/x.rs", "use rustix::net::socket;", "`server` does not name rustix but for io::Errno"),
        ("src/server/x.rs", "use httparse::Request;", "`server` does not use the crate `httparse`"),
        ("src/os/x.rs", "use crate::http::head;", "`os` does not name `http`"),
        ("src/os/x.rs", "use mio::Token;", "`os` does not use the crate `mio`"),
        ("src/main.rs", "use hawkey::http::head;", "`main` does not name `http`"),
        ("src/main.rs", "use mio::Token;", "`main` does not use the crate `mio`"),
        ("src/config/x.rs", "use hawkey_core::http::head;", "`config` does not use the crate `hawkey_core`"),
        ("src/server/x.rs", "use hawkey_core::proxy;", "`server` does not use the crate `hawkey_core`"),
        ("src/main.rs", "use hawkey_core::http;", "`main` does not use the crate `hawkey_core`"),
        ("src/other/x.rs", "", "a folder that is no layer of the table"),
        ("src/http/x.rs", "", "a folder that is no layer of the table"),
        ("src/core/server/x.rs", "", "a folder that is no layer of the table"),
        ("src/core/x.rs", "", "a folder that is no layer of the table"),
    ] {
        assert_eq!(rules_broken(path, text), [rule], "{path}: {text}");
    }
}

#[test]
fn what_breaks_a_rule_in_several_ways_is_told_each_time() {
    let told = rules_broken("src/core/proxy/x.rs", "use std::net::{TcpStream, IpAddr, UdpSocket};\nuse std::fs;\n");
    assert_eq!(told.len(), 3, "{told:?}");
    let source = Source { path: "src/os/x.rs".to_string(), text: "//! x\n\nuse crate::http::head;\n".to_string() };
    assert_eq!(
        check(&source, &dependencies())[0].to_string(),
        "src/os/x.rs:3: `os` does not name `http`\n    use crate::http::head;"
    );
}

#[test]
fn what_breaks_no_rule_is_left_alone() {
    for (path, text) in [
        (
            "src/core/http/x.rs",
            "//! crate::proxy\n/* mio::Token /* nested */ std::fs */\nuse std::io::Write as _;\nuse std::net::IpAddr;",
        ),
        (
            "src/core/http/x.rs",
            "fn f(a: &'static str, b: char) -> bool { b == '\"' || b == '\\'' || a == \"std::fs::read \\\" log::info\" }",
        ),
        (
            "src/core/http/x.rs",
            "#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn f() { let s = \"}\"; }\n    use log;\n}\n",
        ),
        (
            "src/core/proxy/x.rs",
            "use std::time::Duration;\nuse crate::http::{head, reject::Fault};\nuse super::side::Side;",
        ),
        (
            "src/server/x.rs",
            "use crate::{config::Config, os::descriptors, proxy::side};\nuse rustix::io::Errno;\nlet a = b'\\r';",
        ),
        ("src/os/x.rs", "use super::signals::Signals;\nuse crate::os::descriptors;"),
        (
            "src/main.rs",
            "mod arguments;\nuse crate::explain::Target;\nuse hawkey::proxy::route::Route;\nuse hawkey::{Config, Server};",
        ),
        ("src/lib.rs", "pub use hawkey_core::http;\npub use server::Server;"),
        ("src/core/lib.rs", "pub mod http;\npub mod proxy;"),
    ] {
        assert_eq!(rules_broken(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn lines_are_counted_without_tests() {
    assert_eq!(lines_without_tests("//! a\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n"), 3);
    assert_eq!(lines_without_tests("//! a\nfn f() {}\n"), 2);
}
