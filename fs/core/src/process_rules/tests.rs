use super::*;
use crate::config::Config;
use proptest::prelude::*;

const ROOT: &[u8] = b"/w";

fn is(pattern: &str, command: &str) -> bool {
    in_dir(&format!("[process.x]\nmatch = ['''{pattern}''']"), "/w", command)
}

fn in_dir(config: &str, cwd: &str, command: &str) -> bool {
    let rules = Config::parse(config).unwrap().process;
    let mut words = command.split(' ').map(|word| word.as_bytes().to_vec());
    let program = absolute(cwd.as_bytes(), &words.next().unwrap());
    let arguments: Vec<_> = words.collect();
    let command = Invocation { program: &program, arguments: &arguments, cwd: cwd.as_bytes() };
    let named = named(&rules, ROOT, command);
    assert!(named.is_empty() || concerns(&rules, ROOT, &program));
    !named.is_empty()
}

#[test]
fn a_pattern_is_the_beginning_of_a_command_line() {
    for (pattern, same, other) in [
        ("make", &["/usr/bin/make", "/opt/make -j4 all", "./make"][..], &["/bin/makeinfo"][..]),
        (
            "cargo build*",
            &["/c/cargo build", "/c/cargo build --release", "/c/cargo build-x y"],
            &["/c/cargo", "/c/cargo test build", "/c/cargo-x build", "/c/cargo rebuild"],
        ),
        (
            "npm run build",
            &["/bin/npm run build", "/bin/npm run build -- --prod"],
            &["/bin/npm run", "/bin/npm run build:prod", "/bin/npm --x run build"],
        ),
        ("cargo * test", &["/c/cargo test", "/c/cargo +nightly --locked test x"], &["/c/cargo x"]),
        ("python* -m pytest", &["/bin/python3.12 -m pytest -x"], &["/bin/python3 pytest"]),
        ("*", &["/bin/anything at all"], &[]),
        (
            "scripts/test.sh",
            &["/w/scripts/test.sh", "scripts/../scripts/test.sh"],
            &["/x/scripts/test.sh", "/x/test.sh"],
        ),
        ("/usr/bin/make", &["/usr/bin/make x"], &["/usr/local/bin/make"]),
        (r#"echo "a"*' b'"#, &[], &["/bin/echo a b"]),
        (r"echo \* 'x*'", &["/bin/echo * x*"], &["/bin/echo y x*", "/bin/echo * xx"]),
    ] {
        for command in same {
            assert!(is(pattern, command), "{pattern} is {command}");
        }
        for command in other {
            assert!(!is(pattern, command), "{pattern} is not {command}");
        }
    }
}

#[test]
fn a_directory_narrows_a_rule_down() {
    let rule = |cwd: &str| format!("[process.x]\nmatch = ['make']\ncwd = '{cwd}'");
    for (cwd, inside, outside) in [
        ("web/**", &["/w/web", "/w/web/a/b"][..], &["/w", "/w/webs", "/other/web", "/ww/web"][..]),
        ("**", &["/w", "/w/a"], &["/", "/wx"]),
        (".", &["/w"], &["/w/a"]),
        ("*/src", &["/w/a/src"], &["/w/src", "/w/a/b/src", "/w/a/src/x"]),
        ("**/src/", &["/w/src", "/w/a/b/src"], &["/w/a/src/x"]),
    ] {
        for dir in inside {
            assert!(in_dir(&rule(cwd), dir, "/bin/make"), "{cwd} has {dir}");
        }
        for dir in outside {
            assert!(!in_dir(&rule(cwd), dir, "/bin/make"), "{cwd} has not {dir}");
        }
    }
}

#[test]
fn what_is_no_rule_is_refused_with_its_line() {
    for (text, why) in [
        ("[process.x]\nmatch = []", "agentfs.toml line 2: `match` is empty"),
        ("[process.x]\nmatch = ['']", "an empty pattern"),
        ("[process.x]\nmatch = ['\"a']", "ends within quotes"),
        ("[process.x]\nmatch = ['a \\']", "after a backslash"),
        ("[process.x]\nmatch = ['a']\ncwd = '../x'", "not below the workspace"),
        ("[process.x]\nmatch = ['a']\nwayt = '1s'", "unknown key \"wayt\"; did you mean \"wait\"?"),
        ("[process.x]\nmatch = ['a']\nmode = 'share'", "did you mean \"shared\"?"),
        ("[process.x]\nmatch = ['a']\nslots = 0", "line 3"),
        ("[process.'a b']\nmatch = ['a']", "is no work unit"),
        ("[process.x]\nwait = '1s'", "missing field `match`"),
    ] {
        let error = Config::parse(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_rule_reads_back_as_it_was_written() {
    let text = "[process.build]\nmatch = [\"cargo build*\", 'a \"b c\"']\ncwd = \"web/**\"\nwait = \"5m\"\nslots = 2\nmode = \"shared\"\n[process.test]\nmatch = ['make']";
    let config = Config::parse(text).unwrap();
    let rule = &config.process[&"build".parse().unwrap()];
    assert_eq!((rule.slots.get(), rule.mode), (2, Mode::Shared));
    assert_eq!(rule.wait.unwrap().to_string(), "5m");
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
}

/// Obvious and slow: `*` is nothing, or one more.
fn slow<P, T>(
    pattern: &[P],
    text: &[T],
    wild: &dyn Fn(&P) -> bool,
    fits: &dyn Fn(&P, &T) -> bool,
    whole: bool,
) -> bool {
    match (pattern, text) {
        ([], text) => !whole || text.is_empty(),
        ([first, rest @ ..], text) if wild(first) => {
            slow(rest, text, wild, fits, whole)
                || !text.is_empty() && slow(pattern, &text[1..], wild, fits, whole)
        }
        ([first, rest @ ..], [one, others @ ..]) => {
            fits(first, one) && slow(rest, others, wild, fits, whole)
        }
        (_, []) => false,
    }
}

proptest! {
    #[test]
    fn wildcards_match_as_an_obvious_matcher_says(pattern in "[ab*]{0,8}", text in "[ab]{0,10}", whole: bool) {
        let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
        let (wild, fits) = (|p: &u8| *p == b'*', |p: &u8, t: &u8| p == t);
        prop_assert_eq!(
            among(pattern, text, wild, fits, whole),
            slow(pattern, text, &wild, &fits, whole)
        );
    }

    #[test]
    fn what_is_quoted_stands_for_itself(words in prop::collection::vec("[ab*][ a*\\\\\"-]{0,5}", 1..4), more in "[a*]{0,3}") {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let pattern: Pattern = quoted.join(" ").parse().unwrap();
        let program = words[0].as_bytes();
        prop_assert!(pattern.program.matches(program));
        let mut arguments: Vec<Vec<u8>> = words[1..].iter().map(|w| w.clone().into_bytes()).collect();
        prop_assert!(begins(&pattern.arguments, &arguments));
        arguments.push(more.into_bytes());
        prop_assert!(begins(&pattern.arguments, &arguments), "what follows does not matter");
        if words.len() > 1 {
            arguments[0].push(b'!');
            prop_assert!(!begins(&pattern.arguments, &arguments));
        }
    }

    #[test]
    fn no_text_makes_a_pattern_panic(text in ".{0,20}", other in prop::collection::vec(any::<u8>(), 0..9)) {
        if let Ok(pattern) = text.parse::<Pattern>() {
            begins(&pattern.arguments, std::slice::from_ref(&other));
            pattern.is_program(ROOT, &absolute(ROOT, &other));
        }
        if let Ok(dir) = text.parse::<DirPattern>() {
            dir.has(&other);
        }
    }

    #[test]
    fn a_path_from_the_top_stays_what_it_is(path in "(/[a.]{1,3}){0,4}/?", cwd in "(/[a-c]){0,3}") {
        let once = absolute(cwd.as_bytes(), path.as_bytes());
        prop_assert_eq!(&absolute(b"/elsewhere", &once), &once);
        prop_assert!(!once.split(|b| *b == b'/').any(|name| name == b".." || name == b"."));
    }
}
