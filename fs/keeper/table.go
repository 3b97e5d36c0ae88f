package keeper

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxRequest is the length of the longest request a relay can take. It suffices for
// sessions whose INIT reply sets max_write to 4096, the kernel's minimum.
const MaxRequest = 8192

// The table of a relayed session is a memory file that keeper and daemon both hold, so
// that it outlives either. After one page of header and the marks come the slots; only
// pages that were written take memory.
const (
	tableMagic = 0x7265_6c61_7931 // "relay1"
	slots      = 8192             // requests without an answer; more of them wait in the kernel
	slotsKept  = 256              // slots above give their memory back when freed
	marksAt    = 4096
	slotsAt    = marksAt + slots*8
	tableSize  = slotsAt + slots*MaxRequest
)

// Marks of a slot; any larger one is the request's place in the order of arrival.
const (
	markFree    = 0
	markReading = 1 // the keeper reads a request into it: complete if its length is there
	markFirst   = 2
)

// Offsets in a request, and opcodes, of the FUSE protocol.
const (
	offLen, offOpcode, offUnique = 0, 4, 8
	requestHeader                = 40

	opForget      = 2
	opInterrupt   = 36
	opNotifyReply = 41
	opBatchForget = 42
)

// NewTable returns the memory file for a session to be relayed.
func NewTable(name string) (fd int, err error) {
	fd, err = memfd("requests-" + name)
	if err != nil {
		return -1, err
	}
	if err = unix.Ftruncate(fd, tableSize); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err == nil {
		_, err = unix.Pwrite(fd, binary.NativeEndian.AppendUint64(nil, tableMagic), 0)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("request table: %w", err)
	}
	return fd, nil
}

// table records the requests of a relayed session that have no answer.
type table struct {
	mem []byte

	mu     sync.Mutex // guards what follows, and the marks
	free   []int32    // slots, the one to use next last
	byID   map[uint64]int32
	killed map[uint64]bool // requests that an INTERRUPT named
	seq    uint64
	room   chan struct{} // gets a token when a slot is freed
}

// openTable maps fd and finds the requests that an earlier keeper left in it.
func openTable(fd int) (*table, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || st.Size != tableSize || seals&unix.F_SEAL_SHRINK == 0 {
		return nil, errors.New("request table is not a sealed memory file of the right size")
	}
	mem, err := unix.Mmap(fd, 0, tableSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	t := &table{mem: mem, byID: map[uint64]int32{}, killed: map[uint64]bool{}, seq: markFirst, room: make(chan struct{}, 1)}
	if binary.NativeEndian.Uint64(mem) != tableMagic {
		t.close()
		return nil, errors.New("request table is of an unknown version")
	}
	t.load()
	return t, nil
}

func (t *table) load() {
	for i := int32(slots - 1); i >= 0; i-- {
		m := t.mark(i)
		if m.Load() == markReading { // the newest of all
			if t.length(i) < requestHeader || !answered(t.slot(i)) {
				m.Store(markFree)
			}
		}
		switch seq := m.Load(); seq {
		case markFree:
			t.free = append(t.free, i)
		default:
			t.byID[t.unique(i)] = i
			t.seq = max(t.seq, seq)
		}
	}
	for _, i := range t.byID {
		if m := t.mark(i); m.Load() == markReading {
			t.seq++
			m.Store(t.seq)
		}
	}
}

func (t *table) close() {
	// It fails only for memory that is not mapped.
	_ = unix.Munmap(t.mem)
}

func (t *table) mark(i int32) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&t.mem[marksAt+int(i)*8]))
}

func (t *table) slot(i int32) []byte {
	at := slotsAt + int(i)*MaxRequest
	return t.mem[at : at+MaxRequest : at+MaxRequest]
}

func (t *table) length(i int32) int {
	n := binary.NativeEndian.Uint32(t.slot(i)[offLen:])
	return int(min(n, MaxRequest))
}

func (t *table) unique(i int32) uint64  { return binary.NativeEndian.Uint64(t.slot(i)[offUnique:]) }
func (t *table) request(i int32) []byte { return t.slot(i)[:t.length(i)] }

func opcode(req []byte) uint32 { return binary.NativeEndian.Uint32(req[offOpcode:]) }

// answered reports whether the kernel waits for an answer to req.
func answered(req []byte) bool {
	switch opcode(req) {
	case opForget, opBatchForget, opInterrupt, opNotifyReply:
		return false
	}
	return true
}

// reserve returns a slot to read a request into; ok is false while all are taken.
func (t *table) reserve() (i int32, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.free) == 0 {
		return 0, false
	}
	i = t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	clear(t.slot(i)[:requestHeader])
	t.mark(i).Store(markReading)
	return i, true
}

// record keeps the request read into slot i until it is answered.
func (t *table) record(i int32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq++
	t.byID[t.unique(i)] = i
	t.mark(i).Store(t.seq)
}

// release frees a slot whose request is not recorded.
func (t *table) release(i int32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(i)
}

func (t *table) put(i int32) {
	t.mark(i).Store(markFree)
	if i >= slotsKept {
		// Best effort: the memory is given back the next time.
		_ = unix.Madvise(t.slot(i), unix.MADV_REMOVE)
	}
	t.free = append(t.free, i)
	select {
	case t.room <- struct{}{}:
	default:
	}
}

// waiting reports whether request id is recorded.
func (t *table) waiting(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.byID[id]
	return ok
}

// done forgets request id, which the kernel has the answer of.
func (t *table) done(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, ok := t.byID[id]
	if !ok {
		return
	}
	delete(t.byID, id)
	delete(t.killed, id)
	t.put(i)
}

// interrupt notes that an INTERRUPT named request id, to be told a new daemon too.
func (t *table) interrupt(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.byID[id]; ok {
		t.killed[id] = true
	}
}

func (t *table) interrupted(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.killed[id]
}

func (t *table) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// all returns the recorded slots in the order their requests arrived.
func (t *table) all() []int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]int32, 0, len(t.byID))
	for _, i := range t.byID {
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b int32) int { return cmp.Compare(t.mark(a).Load(), t.mark(b).Load()) })
	return list
}
