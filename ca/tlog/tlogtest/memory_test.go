package tlogtest_test

import (
	"testing"

	"hallmark/ca/tlog"
	"hallmark/ca/tlog/tlogtest"
)

func TestMemory_KeepsTheContract(t *testing.T) {
	tlogtest.Test(t, func(t *testing.T) tlogtest.Fixture {
		m := tlogtest.NewMemory()
		return tlogtest.Fixture{Store: m, Add: m.Add, Reopen: func(*testing.T) tlog.Store { return m }}
	})
}
