package main

import (
	"bytes"
	"strings"
	"testing"
)

// run runs the command line and returns what it prints.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestCommand(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args, prints, fails string
	}{
		{"", "Available Commands:", ""},
		{"version", "dfget devel (go", ""},
		{"--version", "dfget version devel", ""},
		{"completion bash", "__start_dfget", ""},
		{"completion zsh", "#compdef dfget", ""},
		{"version now", "", "usage: dfget version"},
		{"--no-such-flag", "", "usage: dfget"},
		{"no-such-command", "", `unknown command "no-such-command"`},
	} {
		out, err := run(t, strings.Fields(c.args)...)
		if !strings.Contains(out, c.prints) {
			t.Errorf("dfget %s prints %q, want %q", c.args, out, c.prints)
		}
		if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("dfget %s: %v, want %q", c.args, err, c.fails)
		}
	}
}
