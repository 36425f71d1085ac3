package broker

import (
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// kicks collects connections that have something to write, so that a batch of
// messages makes one write to each of them.
type kicks struct{ list []*conn }

func (k *kicks) flush() {
	for i, c := range k.list {
		c.kick()
		k.list[i] = nil
	}
	k.list = k.list[:0]
}

var (
	writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, writeBufSize); return &b }}
	itemLists    = sync.Pool{New: func() any { l := make([]item, 0, 64); return &l }}
)

const (
	writeBufSize = 32 << 10
	keepItems    = 1024 // larger lists are not kept for reuse
)

// push appends to what is to be written.
func (c *conn) push(it item, k *kicks) {
	c.mu.Lock()
	c.pushLocked(it, k)
	c.mu.Unlock()
}

// pushIfRoom is push unless the queue is full.
func (c *conn) pushIfRoom(it item, k *kicks) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outBytes+it.size() > c.b.lim.OutBytes {
		return false
	}
	c.pushLocked(it, k)
	return true
}

func (c *conn) pushLocked(it item, k *kicks) {
	if c.closing {
		return
	}
	if c.out == nil {
		c.out = *itemLists.Get().(*[]item)
	}
	c.out = append(c.out, it)
	c.outBytes += it.size()
	c.closing = it.last
	if !c.writing && !c.kicked {
		c.kicked = true
		k.list = append(k.list, c)
	}
}

// kick starts the writer unless it runs.
func (c *conn) kick() {
	c.mu.Lock()
	start := !c.writing && len(c.out) > 0
	c.kicked = false
	if start {
		c.writing = true
	}
	c.mu.Unlock()
	if start {
		go c.write()
	}
}

// write writes until nothing is left and ends. Messages that come while it is
// in a system call share the next one. An idle connection has no writer.
func (c *conn) write() {
	buf := *writeBuffers.Get().(*[]byte)
	for {
		c.mu.Lock()
		list := c.out
		c.out = nil
		if len(list) == 0 {
			c.writing = false
			c.mu.Unlock()
			break
		}
		c.mu.Unlock()
		now := c.b.now()
		last, written, octets := false, 0, 0
		var err error
		for i := range list {
			it := &list[i]
			buf = c.encodeItem(buf, it, now)
			written += it.size()
			if it.msg != nil {
				octets += len(it.msg.payload)
				c.b.count.publishedOut.Add(1)
			}
			last = last || it.last
			if len(buf) >= writeBufSize/2 || i == len(list)-1 {
				if buf, err = c.writeOut(buf); err != nil {
					break
				}
			}
		}
		c.b.count.bytesOut.Add(int64(octets))
		clear(list)
		if cap(list) <= keepItems {
			list = list[:0]
			itemLists.Put(&list)
		}
		c.mu.Lock()
		c.outBytes -= written
		if c.drained != nil && c.outBytes < c.b.lim.OutBytes/4 {
			close(c.drained)
			c.drained = nil
		}
		if err != nil {
			c.closing, c.out = true, nil
		}
		c.mu.Unlock()
		if err != nil {
			c.shut(end(codeSuccess, ConnectionLost, "write: "+err.Error()))
			c.closeNow()
			break
		}
		if s := c.session; s != nil {
			s.progress.Store(now.UnixMilli())
		}
		if last {
			c.closeNow()
			break
		}
	}
	if cap(buf) <= 2*writeBufSize {
		buf = buf[:0]
		writeBuffers.Put(&buf)
	}
}

func (c *conn) writeOut(buf []byte) ([]byte, error) {
	c.nc.SetWriteDeadline(wall().Add(c.b.lim.WriteTimeout))
	_, err := c.nc.Write(buf)
	return buf[:0], err
}

func (c *conn) encodeItem(buf []byte, it *item, now time.Time) []byte {
	switch {
	case it.msg != nil:
		topic, alias := it.msg.topic, uint16(0)
		if c.aliasMax > 0 {
			topic, alias = c.alias(topic)
		}
		return appendPublish(buf, c.version, it, topic, alias, now)
	case it.kind == packets.Pingresp:
		return append(buf, pingresp...)
	case it.kind != 0:
		return appendShort(buf, c.version, it.kind, it.pid, it.code)
	}
	return append(buf, it.octets...)
}

// alias gives the topic to write and its alias. The first topics get one for the
// life of the connection: a device hears the same few again and again. Only the
// writer uses the map.
func (c *conn) alias(topic string) (string, uint16) {
	if a, ok := c.aliasOut[topic]; ok {
		return "", a
	}
	if len(c.aliasOut) >= c.aliasMax || len(topic) < 4 {
		return topic, 0
	}
	if c.aliasOut == nil {
		c.aliasOut = map[string]uint16{}
	}
	a := uint16(len(c.aliasOut) + 1)
	c.aliasOut[topic] = a
	return topic, a
}

// wall is the time by which sockets measure: the system's, wherever the
// program's clock was moved to.
func wall() time.Time { return time.Now() }
