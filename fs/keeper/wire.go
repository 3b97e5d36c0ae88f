package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Version is the protocol this package speaks; minVersion the oldest it understands.
// Operations and fields are only ever added, so that a daemon may be newer than the
// keeper it finds, or older.
const (
	Version    = 1
	minVersion = 1
)

const (
	maxMessage = 64 << 10 // bytes of one message on the control socket
	maxFDs     = 2        // descriptors that travel with one message
)

// The operations of the control socket. Each is one request and one reply.
const (
	opHello   = "hello"   // first on a connection: versions
	opHold    = "hold"    // session + descriptors; replaces one of the same name
	opTake    = "take"    // name → session + descriptors
	opAttach  = "attach"  // name → socket that carries the requests of a relayed session
	opRelease = "release" // name: forget it, close its descriptors
	opAbort   = "abort"   // name: end its connection, so that all that wait get ENOTCONN
	opList    = "list"    // → sessions
	opPut     = "put"     // name + sealed memory file
	opGet     = "get"     // name → sealed memory file
)

// message is a request or a reply. Both sides ignore fields they do not know.
type message struct {
	Op      string   `json:"op"`
	Version int      `json:"version,omitempty"`
	Min     int      `json:"min,omitempty"`
	PID     int      `json:"pid,omitempty"`
	Relay   bool     `json:"relay,omitempty"`
	Name    string   `json:"name,omitempty"`
	Session *Session `json:"session,omitempty"`
	List    []Status `json:"list,omitempty"`
	Code    string   `json:"code,omitempty"` // "" or why the request was not done
	Error   string   `json:"error,omitempty"`
}

// Errors of the keeper that a caller can act on.
var (
	// ErrNotHeld says that the keeper has nothing of that name: start anew.
	ErrNotHeld = errors.New("not held by the keeper")
	// ErrVersion says that daemon and keeper do not understand each other: restart the older one.
	ErrVersion = errors.New("keeper speaks another protocol version")
	// ErrRunning says that a live keeper owns the socket: use that one.
	ErrRunning = errors.New("a keeper is already running on this socket")
	// ErrClosed says that the Client was closed.
	ErrClosed = errors.New("keeper client is closed")
)

var errorCodes = map[string]error{"not-held": ErrNotHeld, "version": ErrVersion}

func failure(err error) *message {
	m := &message{Code: "failed", Error: err.Error()}
	for code, sentinel := range errorCodes {
		if errors.Is(err, sentinel) {
			m.Code = code
		}
	}
	return m
}

// err returns the error a reply carries, nil for none.
func (m *message) err() error {
	if m.Code == "" {
		return nil
	}
	if sentinel, ok := errorCodes[m.Code]; ok {
		if m.Error == sentinel.Error() {
			return sentinel
		}
		return fmt.Errorf("%s: %w", m.Error, sentinel)
	}
	return errors.New(m.Error)
}

func send(c *net.UnixConn, m *message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("%s: message of %d bytes is too long", m.Op, len(b))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, oob, nil)
	return err
}

// receive reads one message; the descriptors are close-on-exec and the caller's.
func receive(c *net.UnixConn, buf []byte) (*message, []int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, nil, err
	}
	fds, err := parseRights(oob[:oobn])
	switch {
	case err != nil:
	case n == 0:
		err = io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("message is too long")
	}
	if err != nil {
		closeAll(fds)
		return nil, nil, err
	}
	var m message
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		closeAll(fds)
		return nil, nil, fmt.Errorf("message: %w", err)
	}
	return &m, fds, nil
}

func parseRights(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // credentials or the like, which were not asked for
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
