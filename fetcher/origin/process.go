package origin

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"time"
)

// maxOutput bounds what a credential helper or plugin may print.
const maxOutput = 1 << 20

// process is a run of a credential helper or plugin. It ends with the context
// of its command.
type process struct{ cmd *exec.Cmd }

// Input sets what the process reads.
func (p *process) Input(in io.Reader) { p.cmd.Stdin = in }

// Output runs the process and returns what it prints.
func (p *process) Output() ([]byte, error) {
	out := &bounded{}
	p.cmd.Stdout = out
	p.cmd.WaitDelay = time.Second // its children may keep its output open
	err := p.cmd.Run()
	return out.buf.Bytes(), err
}

// bounded is a buffer that refuses more than maxOutput bytes.
type bounded struct{ buf bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > maxOutput {
		return 0, errors.New("too much output")
	}
	return b.buf.Write(p)
}
