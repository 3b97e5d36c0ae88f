package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// asCommand has the tests' program be dfget.
const asCommand = "DFGET_TEST_COMMAND"

// What is typed in a bash is completed by the script that dfget writes for it. The
// function that the package bash-completion has is written here.
const completing = `
_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD; }
. "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_TYPE=9 COMPREPLY=()
COMP_POINT=${#COMP_LINE}
compopt() { :; }
__start_dfget
echo "${COMPREPLY[*]}"
`

func TestCompletionOfBash(t *testing.T) {
	t.Parallel()
	b := newBoss(t)
	file := b.kept(t)
	var script bytes.Buffer
	cmd := newCommand()
	cmd.SetOut(&script)
	cmd.SetArgs([]string{"completion", "bash"})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(t.TempDir(), "dfget.bash")
	if err := os.WriteFile(at, script.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"preh":                "preheat",
		"login --pass":        "--password-stdin",
		"preheat --scope all": "all_seed_peers all_peers",
		"preheat --account " + file + " --cluster f":    "fra",
		"preheat --account " + file + " r.example/team": "r.example/team/app:v1",
	} {
		cmd := exec.CommandContext(t.Context(), "bash", append([]string{"-c", completing, "bash", at, os.Args[0]}, strings.Split(line, " ")...)...)
		cmd.Env = append(os.Environ(), asCommand+"=1")
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("dfget %s: %q, want %q, %v", line, got, want, err)
		}
	}
}
