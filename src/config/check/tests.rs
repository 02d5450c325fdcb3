//! The rules of a configuration, each broken once and told at its place.

use super::*;

/// A file that has what every file must have, and `more` below it, which begins at line 5.
fn file_with(more: &str) -> Result<Config, ConfigError> {
    Config::from_toml(&format!("listen = ':8080'\n[[route]]\nmatch = '/'\nto = '127.0.0.1:3000'\n{more}"))
}

/// Holds the first flaw of `text` against its message, place, marked text and help.
#[track_caller]
fn assert_flaw(text: &str, message: &str, place: (usize, usize), marked: &str, help: &str) {
    let told = Config::from_toml(text).expect_err(text).to_string();
    let (line, column) = place;
    let shown = text.lines().nth(line - 1).unwrap_or("");
    let margin = " ".repeat(line.to_string().len());
    let carets = format!("{margin} | {}{}", " ".repeat(column - 1), "^".repeat(marked.chars().count().max(1)));
    let from_here: String = shown.chars().skip(column - 1).collect();
    assert!(
        from_here.starts_with(marked),
        "the test is wrong: `{marked}` does not stand at {line}:{column} of {shown}"
    );
    let head = format!(
        "error: {message}\n{margin}--> configuration:{line}:{column}\n{margin} |\n{line} | {shown}\n{carets}\n"
    );
    assert!(told.starts_with(&head), "expected:\n{head}\ncame:\n{told}");
    assert!(told.contains(help), "expected `{help}` in:\n{told}");
}

#[test]
fn a_file_with_everything_is_understood() {
    let config = Config::from_toml(
        r#"
        listen = [":8080"]
        trusted = ["10.0.0.0/8"]
        fault_status = 500
        http_1_0 = "refuse"

        [[route]]
        match = "example.com/api"
        to = ["127.0.0.1:3000", "127.0.0.1:3001"]
        strip = true

        [timeouts]
        response = "60s"

        [limits]
        body = "10MiB"
        "#,
    )
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.listen, [Listen::EveryAddress(8080)]);
    assert_eq!(config.policy.limits.body, Some(10 << 20));
    let route = config.policy.routes.iter().next().expect("one route");
    assert_eq!((route.to_string().as_str(), route.strip, route.dot_segments), ("example.com/api", true, false));
    assert_eq!(route.to, [UpstreamId(0), UpstreamId(1)]);
    let written: Vec<_> = config.policy.upstreams.iter().map(|upstream| upstream.written.as_str()).collect();
    assert_eq!(written, ["127.0.0.1:3000", "127.0.0.1:3001"]);
    let defaults = Config { listen: config.listen.clone(), policy: config.policy.clone(), ..Config::default() };
    assert_eq!(config, defaults, "what is not written has its default");
}

#[test]
fn an_address_is_kept_once_and_numbered_in_the_order_of_the_search() {
    let one = "[[route]]\nmatch = '/'\nto = ['127.0.0.1:2', '127.0.0.1:1', '127.0.0.1:2']\n";
    let other = "[[route]]\nmatch = '/a'\nto = '127.0.0.1:1'\n";
    let config = Config::from_toml(&format!("listen = ':0'\n{one}{other}")).unwrap();
    assert_eq!(Config::from_toml(&format!("listen = ':0'\n{other}{one}")).unwrap(), config);
    let written: Vec<_> = config.policy.upstreams.iter().map(|upstream| upstream.written.as_str()).collect();
    assert_eq!(written, ["127.0.0.1:1", "127.0.0.1:2"]);
    let to: Vec<_> = config.policy.routes.iter().map(|route| route.to.clone()).collect();
    assert_eq!(to, [vec![UpstreamId(0)], vec![UpstreamId(1), UpstreamId(0)]]);
}

#[test]
fn every_value_has_its_place_when_it_is_wrong() {
    let cases = [
        (
            "[timeouts]\nhead = '60'",
            "timeouts.head: `60` is not a duration: time unit needed, for example 60sec or 60ms",
            (6, 8),
            "'60'",
            "\"60s\"",
        ),
        (
            "[timeouts]\nhead = 60",
            "timeouts.head: `60` is not a duration: time unit needed, for example 60sec or 60ms",
            (6, 8),
            "60",
            "\"60s\"",
        ),
        ("[timeouts]\nidle = '0s'", "timeouts.idle: `0s` is not a duration", (6, 8), "'0s'", "\"off\" waits for ever"),
        ("[timeouts]\ndrain = '0s'", "timeouts.drain: a duration must be more than zero", (6, 9), "'0s'", ""),
        (
            "[timeouts]\nlinger = 'off'",
            "timeouts.linger: this one must end some day",
            (6, 10),
            "'off'",
            "only response, idle and tunnel",
        ),
        (
            "[upstream]\ncool_down = 'x'",
            "upstream.cool_down: `x` is not a duration: expected number at 0",
            (6, 13),
            "'x'",
            "\"2s\"",
        ),
        (
            "[upstream]\nidle = '2 years'",
            "upstream.idle: `2 years` is more than 365 days, the longest duration",
            (6, 8),
            "'2 years'",
            "",
        ),
        ("[limits]\nhead = '33KiB'", "limits.head: at most 32KiB can be allowed", (6, 8), "'33KiB'", ""),
        ("[limits]\nhead = 0", "limits.head: a size must be more than zero", (6, 8), "0", ""),
        (
            "[limits]\ntarget = '17KiB'",
            "limits.target: a target is part of a head, which holds at most 16KiB",
            (6, 10),
            "'17KiB'",
            "raise",
        ),
        ("[limits]\ntarget = '64KiB'", "limits.target: at most 32KiB can be allowed", (6, 10), "'64KiB'", ""),
        ("[limits]\nfields = 257", "limits.fields: at most 256 can be allowed", (6, 10), "257", ""),
        ("[limits]\nfields = 0", "limits.fields: must be at least 1", (6, 10), "0", ""),
        ("[limits]\nfields = '100'", "limits.fields: expected a whole number, not \"100\"", (6, 10), "'100'", ""),
        ("[limits]\nconnections = 0", "limits.connections: must be at least 1", (6, 15), "0", ""),
        ("[limits]\nconnections = -1", "limits.connections: `-1` is not a count", (6, 15), "-1", ""),
        ("[limits]\nbody = 0", "limits.body: a size must be more than zero", (6, 8), "0", "\"off\" is no limit"),
        ("[limits]\nbody = '10M'", "limits.body: `10M` is not a size", (6, 8), "'10M'", ""),
        ("[limits]\nbody = true", "invalid type: boolean `true`, expected text or a whole number", (6, 8), "true", ""),
        ("[limits]\nbody = 99999999999999999999", "this number is too large", (6, 8), "99999999999999999999", ""),
        ("strip = 'yes'", "invalid type: string \"yes\", expected a boolean", (5, 9), "'yes'", ""),
        (
            "[[route]]\nmatch = '/'\nto = '127.0.0.1:1'",
            "two routes match `/`",
            (6, 9),
            "'/'",
            "first written at line 3, column 9",
        ),
        (
            "[[route]]\nmatch = '/a?b'\nto = '127.0.0.1:1'",
            "a match is a path, and cannot have a query",
            (6, 9),
            "'/a?b'",
            "`/a`",
        ),
        (
            "[[route]]\nmatch = '/a'\nto = ['127.0.0.1:1', '127.0.0.1']",
            "the upstream `127.0.0.1` has no port",
            (7, 22),
            "'127.0.0.1'",
            "",
        ),
        ("[[route]]\nmatch = '/a'\nto = []", "the route `/a` names no upstream", (6, 9), "'/a'", ""),
        ("[[route]]\nto = '127.0.0.1:1'", "this route has no `match`", (5, 1), "[[route]]", "match = \"/\""),
        ("[[route]]\nmatch = '/a'", "this route has no `to`", (5, 1), "[[route]]", "to = \"127.0.0.1:3000\""),
        (
            "[[route]]\nmatch = '/a'\nto = '127.0.0.1:8080'",
            "the upstream `127.0.0.1:8080` is hawkey's own listener `:8080`: requests would go round in circles",
            (7, 6),
            "'127.0.0.1:8080'",
            "",
        ),
        ("[timeouts]\nhed = '1s'", "unknown key `hed`", (6, 1), "hed", "did you mean `head`?"),
        ("[[route]]\nmacth = '/'", "unknown key `macth`", (6, 1), "macth", "did you mean `match`?"),
        ("[timeout]\nhead = '1s'", "unknown key `timeout`", (5, 2), "timeout", "did you mean `timeouts`?"),
        (
            "fault_status = 502",
            "unknown key `fault_status`",
            (5, 1),
            "fault_status",
            "belongs at the top, before the first table",
        ),
        ("[limits]\ntunnel = 'off'", "unknown key `tunnel`", (6, 1), "tunnel", "belongs in [timeouts]"),
        ("[upstream]\nzzzzzz = 1", "unknown key `zzzzzz`", (6, 1), "zzzzzz", "known here: cool_down, idle"),
        ("to = 'x'", "duplicate key", (5, 1), "to", ""),
        ("[limits]\nbody = ", "string values must be quoted, expected literal string", (6, 8), "", ""),
    ];
    for (more, message, place, marked, help) in cases {
        let text = format!("listen = ':8080'\n[[route]]\nmatch = '/'\nto = '127.0.0.1:3000'\n{more}");
        assert_flaw(&text, message, place, marked, help);
    }
}

#[test]
fn the_top_of_the_file_too() {
    let cases = [
        ("listen = '8080'", "`8080` is not a listener", (1, 10), "'8080'", "did you mean `:8080`?"),
        (
            "listen = [':80', ':80']",
            "the listener `:80` is written twice",
            (1, 18),
            "':80'",
            "first written at line 1, column 11",
        ),
        (
            "listen = [':80', '[::1]:80']",
            "the listeners `:80` and `[::1]:80` ask for the same port",
            (1, 18),
            "'[::1]:80'",
            "",
        ),
        (
            "listen = [':80', 'systemd:a:b']",
            "`a:b` is not a name of passed sockets",
            (1, 18),
            "'systemd:a:b'",
            "FileDescriptorName=",
        ),
        (
            "listen = ['systemd:a', 'systemd:a']",
            "the listener `systemd:a` is written twice",
            (1, 24),
            "'systemd:a'",
            "first written at line 1, column 11",
        ),
        ("listen = [80]", "invalid type: integer `80`, expected a string", (1, 11), "80", ""),
        ("listen = 80", "invalid type: integer `80`, expected text or a list of texts", (1, 10), "80", ""),
        (
            "trusted = ['10.0.0.0/33']",
            "trusted: /33 is longer than the 32 bits of the address",
            (1, 12),
            "'10.0.0.0/33'",
            "expected a network",
        ),
        ("trusted = 'lan'", "trusted: `lan` is not an IP address", (1, 11), "'lan'", "expected a network"),
        ("fault_status = 503", "fault_status: expected 500 or 502", (1, 16), "503", ""),
        (
            "http_1_0 = 'server'",
            "http_1_0: expected \"refuse\" or \"serve\"",
            (1, 12),
            "'server'",
            "did you mean `serve`?",
        ),
        ("fault_staus = 502", "unknown key `fault_staus`", (1, 1), "fault_staus", "did you mean `fault_status`?"),
        ("timeouts = 5", "invalid type: integer `5`, expected a table", (1, 12), "5", ""),
        ("[route]\nmatch = '/'", "invalid type: table, expected a list", (1, 1), "[route]", "write it as `[[route]]`"),
        ("listen 8080", "key with no value, expected `=`", (1, 8), "", ""),
    ];
    for (text, message, place, marked, help) in cases {
        assert_flaw(text, message, place, marked, help);
    }
}

#[test]
fn what_is_missing_altogether_has_no_place() {
    let expected = r#"error: there is no listener
  = help: as in `listen = [":8080"]`

error: there is no route
  = help: as in `[[route]]`, `match = "/"`, `to = "127.0.0.1:3000"`
"#;
    for text in ["", "listen = []", "# nothing\n"] {
        assert_eq!(Config::from_toml(text).unwrap_err().to_string(), expected, "of {text:?}");
    }
}

#[test]
fn every_flaw_is_told_in_the_order_of_the_text() {
    let told =
        file_with("[timeouts]\nhead = 'x'\n[limits]\nfields = 0").unwrap_err().in_file("hawkey.toml").to_string();
    let places: Vec<&str> = told.lines().filter_map(|line| line.trim_start().strip_prefix("--> ")).collect();
    assert_eq!(places, ["hawkey.toml:6:8", "hawkey.toml:8:10"], "{told}");
}

#[test]
fn what_may_be_off_is_off_and_a_smaller_head_takes_the_target_with_it() {
    let config =
        file_with("[timeouts]\nresponse = 'off'\nidle = 'off'\ntunnel = 'off'\n[limits]\nhead = '4KiB'\nbody = 'off'")
            .unwrap_or_else(|error| panic!("{error}"));
    let timeouts = &config.policy.timeouts;
    assert_eq!((timeouts.response, timeouts.idle, timeouts.tunnel), (None, None, None));
    assert_eq!(config.policy.limits.body, None);
    assert_eq!(config.policy.limits.head, head::Limits { bytes_max: 4096, target_bytes_max: 4096, fields_max: 100 });
}

#[test]
fn a_command_line_says_the_same_in_one_line() {
    let config =
        Config::from_words(["/=127.0.0.1:1,127.0.0.1:2", ":8080", "systemd:a=b", "example.com/api=unix:/run/a=b.sock"])
            .unwrap();
    let text = "listen = [':8080', 'systemd:a=b']\n[[route]]\nmatch = '/'\nto = ['127.0.0.1:1', '127.0.0.1:2']\n\
                [[route]]\nmatch = 'example.com/api'\nto = 'unix:/run/a=b.sock'";
    assert_eq!(config, Config::from_toml(text).unwrap());
    let built = Config::new()
        .route("example.com/api", ["unix:/run/a=b.sock"])
        .and_then(|config| config.listen(":8080"))
        .and_then(|config| config.listen("systemd:a=b"));
    assert_eq!(built.and_then(|config| config.route("/", ["127.0.0.1:1", "127.0.0.1:2"])), Ok(config));
}

#[test]
fn a_wrong_word_is_marked_in_its_line() {
    let cases = [
        (
            &[":8080", "/chat127.0.0.1"][..],
            "error: expected MATCH=UPSTREAM, as in /chat=127.0.0.1:4000\n --> command line\n  |\n  | :8080 /chat127.0.0.1\n  |       \
             ^^^^^^^^^^^^^^\n",
        ),
        (
            &[":8080", "/=127.0.0.1:3000,:9,"],
            "error: the upstream `:9` has no address\n --> command line\n  |\n  | :8080 /=127.0.0.1:3000,:9,\n  |                        ^^\n  \
             = help: did you mean `127.0.0.1:9`?\n\nerror: an upstream is missing here\n --> command line\n  |\n  | :8080 \
             /=127.0.0.1:3000,:9,\n  |                           ^\n  = help: expected 127.0.0.1:3000, [::1]:3000, name:3000 or \
             unix:/path\n",
        ),
        (
            &["8080", "/=127.0.0.1:3000"],
            "error: `8080` is not a listener\n --> command line\n  |\n  | 8080 /=127.0.0.1:3000\n  | ^^^^\n  = help: did you mean \
             `:8080`?\n",
        ),
        (
            &["example.com", ":80", "/=127.0.0.1:3000"],
            "error: `example.com` is neither a listener nor a route\n --> command line\n  |\n  | example.com :80 /=127.0.0.1:3000\n  | \
             ^^^^^^^^^^^\n  = help: a listener is written :8080, a route /=127.0.0.1:3000\n",
        ),
        (&[":80"], "error: there is no route\n  = help: as in `hawkey :8080 /=127.0.0.1:3000`\n"),
        (&["/=127.0.0.1:3000"], "error: there is no listener\n  = help: as in `hawkey :8080 /=127.0.0.1:3000`\n"),
        (
            &[":80", "/=127.0.0.1:80"],
            "error: the upstream `127.0.0.1:80` is hawkey's own listener `:80`: requests would go round in circles\n --> command line\n  \
             |\n  | :80 /=127.0.0.1:80\n  |       ^^^^^^^^^^^^\n",
        ),
    ];
    for (words, expected) in cases {
        assert_eq!(Config::from_words(words).unwrap_err().to_string(), expected, "of {words:?}");
    }
}

#[test]
fn the_calls_of_a_program_are_held_to_the_same_rules() {
    let config = Config::new().listen("127.0.0.1:8080").and_then(|config| config.route("/a", ["127.0.0.1:1"])).unwrap();
    let cases = [
        (
            config.clone().listen("127.0.0.1:8080"),
            "error: the listener `127.0.0.1:8080` is written twice\n --> listener\n",
        ),
        (
            config.clone().listen("127.0.0.1:1"),
            "error: the upstream `127.0.0.1:1` is hawkey's own listener `127.0.0.1:1`",
        ),
        (
            config.clone().route("/a/", ["127.0.0.1:2"]),
            "error: two routes match `/a/`\n --> route\n  |\n  | /a/=127.0.0.1:2\n  | ^^^\n",
        ),
        (
            config.clone().route("/b", ["127.0.0.1:2", "3"]),
            "error: `3` is not an upstream\n --> route\n  |\n  | /b=127.0.0.1:2,3\n  |                ^\n",
        ),
        (config.route::<&str>("/b", []), "error: the route `/b` names no upstream\n"),
    ];
    for (result, expected) in cases {
        let told = result.expect_err(expected).to_string();
        assert!(told.starts_with(expected), "expected:\n{expected}\ncame:\n{told}");
    }
}

#[test]
fn no_text_is_too_odd_to_be_told_about() {
    let text = "listen = [':80']\r\n# ü\r\n[[route]]\nmatch = \"/\\u00fc\"\nto = \"ü:1\"\n[limits]\nbody = '1ü'\n";
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        for odd in ["", "\0", "\"", "ü", "\u{1b}[2J", "\u{feff}", "[[", "\n\n"] {
            let told = Config::from_toml(&format!("{}{odd}", &text[..end]))
                .expect_err("it is wrong wherever it is cut")
                .to_string();
            let is_plain = |line: &str| !line.contains(char::is_control);
            assert!(told.starts_with("error: ") && told.lines().all(is_plain), "cut at {end}, then {odd:?}: {told:?}");
        }
    }
}
