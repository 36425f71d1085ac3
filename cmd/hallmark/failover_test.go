package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/api/factoryapi"
	"hallmark/store/storetest"
)

// TestPostgres_AFailOverUnderLoadCostsNothing_A80: all connections of the service
// end again and again, as when a database fails over, while eight clients issue.
// Who got no certificate asks again; there is one for each unit in the end, the
// one that was answered, and the service was never started again.
func TestPostgres_AFailOverUnderLoadCostsNothing_A80(t *testing.T) {
	rounds, pause := 6, 250*time.Millisecond
	if long() {
		rounds, pause = 60, time.Second
	}
	url := storetest.Postgres(t)
	s := newSite(t, "software", url, anyName(100_000))
	a := newAsker(t, s)
	admin, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var mu sync.Mutex
	answered := map[string]string{} // unit → serial number
	var refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				u := newUnit(t, fmt.Sprintf("SN-%d-%d", i, n))
				for deadline := time.Now().Add(30 * time.Second); ; {
					r, err := call(t.Context(), a.client, "POST", "https://"+s.door("factory")+"/factory/v1/units/issue", u.request())
					if err != nil {
						t.Errorf("%s: %v", u.name, err)
						return
					}
					if r.status == http.StatusOK {
						var v factoryapi.IssueAnswer
						if err := json.Unmarshal(r.body, &v); err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						answered[u.name] = v.Serial
						mu.Unlock()
						break
					}
					if r.status != http.StatusServiceUnavailable || time.Now().After(deadline) {
						t.Errorf("%s: %s %s", u.name, r, r.body)
						return
					}
					refused.Add(1)
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	ended := 0
	for range rounds {
		time.Sleep(pause) // so that there is work on the way
		var n int
		if err := admin.QueryRow(`SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		ended += n
	}
	stop()
	wg.Wait()
	if ended < rounds || len(answered) < rounds {
		t.Fatalf("%d connections ended, %d units were made: this proves nothing", ended, len(answered))
	}
	for range 50 { // connections that ended while nobody used them
		s.server.db.Ping(t.Context())
	}
	made := map[string]int{}
	for _, r := range s.everyRecord() {
		if r.Profile != "idevid" {
			continue
		}
		made[r.Holder]++
		if r.Serial != answered[r.Holder] {
			t.Errorf("%s was answered %s and has %s", r.Holder, answered[r.Holder], r.Serial)
		}
	}
	for u := range answered {
		if made[u] != 1 {
			t.Errorf("%s has %d certificates", u, made[u])
		}
	}
	if used := s.order(siteOrder).Used; used != int64(len(answered)) {
		t.Errorf("the order used %d units, %d were made", used, len(answered))
	}
	t.Logf("%d connections ended; %d units, %d times 503", ended, len(answered), refused.Load())
	s.clean()
}
