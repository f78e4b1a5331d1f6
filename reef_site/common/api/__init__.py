"""Endpoints of the API, each declared once: what it takes, what it returns, what can go wrong.

    @endpoint(body=Registration, response=VMResponse, status=201, errors={403: FORBIDDEN})
    def post(self, request: Request) -> Response:
        vm = services.register(Registration.parse(request))

The declaration validates the request and is the source of the OpenAPI schema (`/api/schema`).
"""
