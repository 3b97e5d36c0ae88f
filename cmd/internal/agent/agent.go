// Package agent is how dfget and the agent on its host speak: HTTP on the agent's
// unix socket, whose mode says who may.
//
// POST /v1/file takes a Request and answers 200 with frames: one byte, 'd' for bytes
// of the file or 'e' for an Event as JSON, four bytes for the length of what follows,
// big end first, and that. The first frame is a Start, the last one an End. An answer
// without one was cut off.
//
// GET /v1/status answers a Status, and /v1/cache is the blobs that are kept: GET lists
// them as Kept, and below it by their digests PUT brings one (?size=), DELETE removes it,
// PUT and DELETE of …/pin say whether it stays, and GET of …/content reads it.
package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/file"
)

// Socket is the agent's, where its configuration says nothing else.
const Socket = "/run/dfsnapshotter/status.sock"

// MaxFrame is the length of the longest frame.
const MaxFrame = 1 << 20

// Request asks for a file.
type Request struct {
	file.Spec
	// Have is what the caller has from the beginning of the file, by its length and
	// digest. If the file begins so, the rest is sent.
	Have    int64         `json:"have,omitempty"`
	HaveSum digest.Digest `json:"have_sum,omitempty"`
}

// Event is one of these.
type Event struct {
	Start *Start `json:"start,omitempty"`
	From  *From  `json:"from,omitempty"`
	End   *End   `json:"end,omitempty"`
}

// Start says what is coming.
type Start struct {
	Name digest.Digest `json:"name"`
	Size int64         `json:"size"` // of the whole file
	Off  int64         `json:"off"`  // where the bytes begin: Have or 0
}

// From says how many bytes came from where, until now.
type From struct {
	Origin int64 `json:"origin"`
	Peers  int64 `json:"peers"`
	Cache  int64 `json:"cache"`
}

// End says that all bytes were sent and matched the digest, if there is one, or why
// not.
type End struct {
	Digest digest.Digest `json:"digest,omitempty"` // of the whole file
	Error  *Error        `json:"error,omitempty"`
}

// Code says what can be done about an Error.
type Code string

// The codes.
const (
	Direct       Code = "direct"       // the agent does not fetch this file: fetch it yourself
	Spec         Code = "spec"         // the request makes no sense
	NotFound     Code = "not_found"    // there is no such file
	Unauthorized Code = "unauthorized" // the server wants other credentials
	Digest       Code = "digest"       // the content is not what the digest says
	Changed      Code = "changed"      // the file changed meanwhile: ask again
	Unavailable  Code = "unavailable"  // nobody gave it in time: ask again, later
)

// Error is why a file did not come.
type Error struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
}

func (e *Error) Error() string { return e.Text }

// Write sends an event.
func Write(w io.Writer, e Event) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return frame(w, 'e', text)
}

// WriteData sends bytes of the file, at most MaxFrame.
func WriteData(w io.Writer, p []byte) error { return frame(w, 'd', p) }

func frame(w io.Writer, kind byte, p []byte) error {
	var head [5]byte
	head[0] = kind
	binary.BigEndian.PutUint32(head[1:], uint32(len(p)))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(p)
	return err
}

// ErrAgent reports that no agent answers.
var ErrAgent = errors.New("no agent answers")

// ErrCut reports an answer that was cut off: the agent was stopped.
var ErrCut = errors.New("the agent's answer was cut off")

// Client returns a client of the agent that listens on socket.
func Client(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true, ReadBufferSize: 128 << 10,
	}}
}

// Stream is an answer of the agent.
type Stream struct {
	Start Start
	body  io.ReadCloser
	in    *bufio.Reader
	left  int // bytes of the frame that is being read
}

// Ask asks the agent for a file. The Stream must be closed. The error is ErrAgent if
// nobody answers, a Refusal if the agent does not know such requests, an Error that says
// why the file does not come, or ErrCut.
func Ask(ctx context.Context, socket string, r Request) (*Stream, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/v1/file", bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	resp, err := Client(socket).Do(req) // Close of the Stream closes its body
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrAgent, errors.Unwrap(err)) // less the URL, which says nothing
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refused(resp)
	}
	s := &Stream{body: resp.Body, in: bufio.NewReaderSize(resp.Body, 256<<10)}
	e, _, err := s.Next(nil)
	switch {
	case err != nil:
		return nil, errors.Join(err, s.Close())
	case e.End != nil && e.End.Error != nil:
		return nil, errors.Join(e.End.Error, s.Close())
	case e.Start == nil:
		return nil, errors.Join(fmt.Errorf("%w: it begins with something else", ErrCut), s.Close())
	}
	s.Start = *e.Start
	return s, nil
}

// Next reads what comes next: an event, or n bytes of the file into p, n > 0.
func (s *Stream) Next(p []byte) (e *Event, n int, err error) {
	for s.left == 0 {
		var head [5]byte
		if _, err := io.ReadFull(s.in, head[:]); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrCut, err)
		}
		length := int(binary.BigEndian.Uint32(head[1:]))
		switch {
		case length > MaxFrame:
			return nil, 0, fmt.Errorf("%w: a frame of %d bytes", ErrCut, length)
		case head[0] == 'd':
			s.left = length
			continue
		}
		text := make([]byte, length)
		if _, err := io.ReadFull(s.in, text); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrCut, err)
		}
		e = &Event{}
		if err := json.Unmarshal(text, e); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrCut, err)
		}
		return e, 0, nil
	}
	n, err = s.in.Read(p[:min(len(p), s.left)])
	s.left -= n
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrCut, err)
	}
	return nil, n, err
}

// Close ends the answer.
func (s *Stream) Close() error { return s.body.Close() }
