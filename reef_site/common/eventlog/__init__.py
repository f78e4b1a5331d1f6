"""The event log: what happened to what, by whom, in one append-only table.

    with transaction.atomic():
        row.save()
        recording.record("vm.registered", vm_id, actor=by)      # in the transaction of the change

It knows no app. Who may read which events, the API and the subscribers are in `reef_site.activity`.
"""
