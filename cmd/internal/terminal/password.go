package terminal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoTerminal reports that nobody can be asked for a secret.
var ErrNoTerminal = errors.New("this is no terminal, so nobody can be asked")

// Secret asks for a line that is not shown as it is typed.
func Secret(in io.Reader, out io.Writer, question string) (string, error) {
	f, ok := in.(*os.File)
	if !ok || !Is(f) {
		return "", ErrNoTerminal
	}
	before, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return "", err
	}
	quiet := *before
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &quiet); err != nil {
		return "", err
	}
	_, _ = fmt.Fprint(out, question) // who does not see it does not answer
	line, err := bufio.NewReader(f).ReadString('\n')
	_, _ = fmt.Fprintln(out)
	return strings.TrimRight(line, "\r\n"), errors.Join(err, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, before))
}
