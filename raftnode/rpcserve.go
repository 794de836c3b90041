package raftnode

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
)

const (
	// maxHandlers is how many calls of one connection may be under way, from
	// their arrival until their reply is written. Further ones are overloaded.
	maxHandlers = 1024
	// maxHandlerBytes bounds their payloads together.
	maxHandlerBytes = 64 << 20
)

// servedConn is the serving side of a connection of calls.
type servedConn struct {
	mux    *Mux
	from   Identity
	conn   net.Conn
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc

	running  chan struct{} // a token for each call under way
	refusals chan struct{} // a token for each other reply that waits: the reader stops when they run out
	bytes    atomic.Int64  // payloads of calls under way

	wake    chan struct{} // holds 1: replies is not empty
	mu      sync.Mutex
	replies []queuedReply
}

// queuedReply waits for the writer, which takes back its token.
type queuedReply struct {
	frame
	token chan struct{}
	bytes int64
}

// serveCalls answers the calls of one connection until it breaks, and waits for
// its handlers.
func (m *Mux) serveCalls(conn net.Conn, from Identity) {
	ctx, cancel := context.WithCancel(m.ctx)
	s := &servedConn{
		mux: m, from: from, conn: conn, ctx: ctx, cancel: cancel,
		running:  make(chan struct{}, maxHandlers),
		refusals: make(chan struct{}, maxHandlers),
		wake:     make(chan struct{}, 1),
	}
	var tasks sync.WaitGroup
	tasks.Go(s.write)
	s.read(&tasks)
	m.spawn(func() { m.onLeft(m.ctx, from.NodeID) })
	cancel()
	conn.Close()
	tasks.Wait()
}

func (s *servedConn) read(tasks *sync.WaitGroup) {
	var none [16]byte
	r := bufio.NewReaderSize(s.conn, 64<<10)
	for {
		f, err := readFrame(r)
		if err != nil || f.method&replyBit != 0 {
			return
		}
		// This node may have got its cluster since the handshake.
		own := s.mux.ident().ClusterID
		if own != none && s.from.ClusterID != none && own != s.from.ClusterID {
			return
		}
		reply := frame{id: f.id, method: f.method | replyBit}
		if f.method == methodPing {
			if !s.reply(reply) {
				return
			}
			continue
		}
		h := s.mux.handlers[f.method]
		if h == nil {
			reply.status, reply.payload = problemPayload(api.NewProblem(api.NotFound, "this node knows no calls of method %d", f.method))
			if !s.reply(reply) {
				return
			}
			continue
		}
		n := int64(len(f.payload))
		if s.bytes.Load()+n <= maxHandlerBytes {
			select {
			case s.running <- struct{}{}:
				s.bytes.Add(n)
				tasks.Go(func() {
					s.run(h, f.payload, &reply)
					s.push(queuedReply{reply, s.running, n})
				})
				continue
			default:
			}
		}
		reply.status = replyOverloaded
		if !s.reply(reply) {
			return
		}
	}
}

// reply queues a reply that no handler made; false if the connection ended.
func (s *servedConn) reply(f frame) bool {
	select {
	case s.refusals <- struct{}{}:
		s.push(queuedReply{f, s.refusals, 0})
		return true
	case <-s.ctx.Done():
		return false
	}
}

func (s *servedConn) run(h Handler, payload []byte, reply *frame) {
	b, err := h(s.ctx, s.from, payload)
	if err == nil && len(b) > maxPayload {
		err = api.NewProblem(api.Internal, "the reply has %d bytes; at most %d are possible", len(b), maxPayload)
	}
	if err != nil {
		reply.status, reply.payload = problemPayload(err)
		return
	}
	reply.payload = b
}

func problemPayload(err error) (status byte, payload []byte) {
	p := api.AsProblem(err)
	b, err := json.Marshal(problemFrame{p, int64(p.RetryAfter)})
	if err != nil || len(b) > maxPayload {
		// Strings and numbers always marshal; so it is far too long.
		return problemPayload(&api.Problem{Code: p.Code, Status: p.Status, Title: p.Title, Retryable: p.Retryable, Outcome: p.Outcome})
	}
	return replyProblem, b
}

func (s *servedConn) push(r queuedReply) {
	s.mu.Lock()
	s.replies = append(s.replies, r)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write drains the replies that wait into one Write, until the connection ends.
func (s *servedConn) write() {
	var buf []byte
	var batch, spare []queuedReply
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		}
		s.mu.Lock()
		batch, s.replies = s.replies, spare[:0]
		s.mu.Unlock()
		for rest := batch; len(rest) > 0; {
			buf = buf[:0]
			i := 0
			for ; i < len(rest) && len(buf) < writeBatch; i++ {
				buf = rest[i].frame.append(buf)
			}
			s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
			if _, err := s.conn.Write(buf); err != nil {
				s.cancel()
				s.conn.Close() // wakes the reader
				return
			}
			for _, r := range rest[:i] {
				s.bytes.Add(-r.bytes)
				<-r.token
			}
			rest = rest[i:]
			if cap(buf) > 2*writeBatch {
				buf = nil
			}
		}
		clear(batch)
		spare = batch
	}
}
