package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// What is wrong with a container, and not with what runs it.
var (
	ErrSilent = errors.New("the container prints no line") // for as long as was waited
	ErrFailed = errors.New("the container failed")         // ended with a code that is not 0, or did not start
)

// printing is a container that was started, and what it prints.
type printing struct {
	Line string // the first it printed, "" if it ended without one

	first chan string
	ended chan struct{} // closed at its end, after which err and last are set
	err   error
	last  string // what it printed at last
}

func newPrinting() printing {
	return printing{first: make(chan string, 1), ended: make(chan struct{})}
}

// listen reads what it prints until nobody is left who could print.
func (p *printing) listen(r io.Reader) {
	in := bufio.NewReader(r)
	for first := true; ; first = false {
		line, err := in.ReadString('\n')
		if line = strings.TrimSpace(line); first && err == nil {
			p.first <- line
		}
		if line != "" {
			p.last = line
		}
		if err != nil {
			return
		}
	}
}

// await returns when it has printed a first line or has ended, or kills it after limit.
func (p *printing) await(limit time.Duration, kill func() error) error {
	select {
	case p.Line = <-p.first:
	case <-p.ended:
		select {
		case p.Line = <-p.first:
		default:
			p.Line = p.last // one without an end
		}
	case <-time.After(limit):
		return errors.Join(fmt.Errorf("%w for %s", ErrSilent, limit), p.end(kill))
	}
	return nil
}

// stop waits for its end, at most for grace, and then kills it. The error is that of one
// that failed before.
func (p *printing) stop(grace time.Duration, kill func() error) error {
	select {
	case <-p.ended:
		return p.err
	case <-time.After(grace):
		return p.end(kill)
	}
}

func (p *printing) end(kill func() error) error {
	err := kill()
	select {
	case <-p.ended: // it may have ended by itself just before
		return nil
	case <-time.After(20 * time.Second):
		return errors.Join(errors.New("the container does not end after SIGKILL"), err)
	}
}
