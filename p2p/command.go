package p2p

// A Command tells a host what a manager wants of it: to have all of a blob, as if
// somebody there had asked for it, or to remove what it has. The host answers
// with Done. It holds as long as the stream over which it came.
type Command struct {
	ID     uint64
	Blob   Blob
	Origin Origin // where the blob can be had; the token is never set
	Remove bool
	Stop   bool // take back the command of this ID, which is not answered then
}

// Done says that a command was carried out: the blob is there and has matched its
// digest, or nothing is left of it. Or Failed says why not.
type Done struct {
	ID     uint64
	Failed string
}

func (Command) message() {}
func (Done) message()    {}
